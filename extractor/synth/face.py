"""A face, put together: which layer lies over which."""

from .eyes import brow_layers, eye_layers, forehead_layers
from .head import back_layers, beard_layers, cheek_layers, glasses_layers, hair_layers, nose_layers
from .identity import Identity
from .layers import Layer, Pen
from .mouth import mouth_layers
from .state import FaceState


def face_layers(person: Identity, state: FaceState) -> list[Layer]:
    """Every layer of a person's face over a video, from the back to the front."""
    pen = Pen(pose=state.pose)
    return [
        *back_layers(pen, person, state),
        *cheek_layers(pen, person, state),
        *forehead_layers(pen, person, state),
        *nose_layers(pen, person, state),
        *beard_layers(pen, person, state),
        *mouth_layers(pen, person, state),
        *eye_layers(pen, person, state),
        *hair_layers(pen, person, state),
        *brow_layers(pen, person, state),
        *glasses_layers(pen, person),
    ]
