"""MLflow: writes a python_function model to the given folder, for `mlflow models serve`."""

import sys

import mlflow
import pandas as pd
from onnx_policy import Model


class Act(mlflow.pyfunc.PythonModel):
    """States in, Q-values out."""

    def load_context(self, context: object) -> None:
        """Load the model."""
        self.model = Model()

    def predict(
        self, context: object, model_input: pd.DataFrame, params: object = None
    ) -> list[list[float]]:
        """Answer the states."""
        return self.model.q_values(pd.DataFrame(model_input).to_numpy()).tolist()


if __name__ == "__main__":
    mlflow.pyfunc.save_model(
        sys.argv[1],
        python_model=Act(),
        code_paths=["onnx_policy.py", "mlflow_app.py"],
        pip_requirements=[],
    )
