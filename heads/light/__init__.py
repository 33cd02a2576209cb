"""Light heads: trees, linear models and small layers on single frames, under scikit-learn's estimator contract."""
