"""A face, put together: which layer lies over which."""

from .eyes import brow_layers, eye_layers, forehead_layers
from .hair import beard_layers, glasses_layers, hair_layers
from .head import back_layers, cheek_layers, nose_layers, outline_controls
from .identity import Identity
from .layers import Layer, Pen
from .mouth import mouth_layers
from .state import FaceState


def face_layers(person: Identity, state: FaceState) -> list[Layer]:
    """Every layer of a person's face over a video, from the back to the front."""
    pen = Pen(pose=state.pose)
    jaw = outline_controls(pen, person, state)[:, 5:14]
    return [
        *back_layers(pen, person, state),
        *cheek_layers(pen, person, state),
        *forehead_layers(pen, person, state),
        *nose_layers(pen, person, state),
        *beard_layers(pen, person, state, jaw),
        *mouth_layers(pen, person, state),
        *eye_layers(pen, person, state),
        *hair_layers(pen, person),
        *brow_layers(pen, person, state),
        *glasses_layers(pen, person),
    ]
