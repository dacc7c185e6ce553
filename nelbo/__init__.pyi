from .flows.python.batch import Batch
from .flows.python.model import Model
from .flows.python.scorer import Scorer
from .flows.python.workspace import Workspace, load

__all__ = ["Batch", "Model", "Scorer", "Workspace", "load"]
