"""The average of the weights over the last steps: it does not jump where single steps do."""

from typing import Any

import keras
from keras import ops
from numpy.typing import NDArray

from nelbo.vae_core.network.likelihoods import Tensor

#: Share of the average that a step keeps, once there have been many: an average over some fifty steps.
MOMENTUM = 0.98
#: Early on the average is over the last tenth of the steps: a short training does not keep what it began with.
_SHARE = 10


class AveragingAdam(keras.optimizers.Adam):
    """Adam that also keeps an exponential moving average of each weight; the steps are Adam's own.

        average_k = m_k average_(k-1) + (1 - m_k) weight_k,    m_k = min(0.98, k / (k + 9)) for steps k = 0, 1, ...

    Keras's ``use_ema`` has one momentum for all steps: a training of thirty of them would keep half of its beginning.

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging".
    """

    def build(self, variables: list[Any]) -> None:
        """Make the averages beside Adam's own moments."""
        super().build(variables)
        self.averages = self.add_optimizer_variables(variables, "average")

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        """Adam's step, and the average with what it gave."""
        super().update_step(gradient, variable, learning_rate)
        average = self.averages[self._get_variable_index(variable)]
        steps = ops.cast(self.iterations, variable.dtype)
        momentum = ops.minimum(MOMENTUM, steps / (steps + _SHARE - 1))
        self.assign(average, momentum * average + (1 - momentum) * variable)


class Averages(keras.callbacks.Callback):
    """Puts the averages in the place of the weights, from before validation to the end of the epoch.

    Callbacks before this one see the averages when an epoch ends, those after it the weights that training goes on
    with.
    """

    def on_test_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras names them
        """Remember the weights and put in the averages."""
        self.weights = _copies(self.model.trainable_variables)
        self._put(_copies(self.model.optimizer.averages))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Put the weights back."""
        self._put(self.weights)

    def _put(self, values: list[NDArray[Any]]) -> None:
        for variable, value in zip(self.model.trainable_variables, values, strict=True):
            variable.assign(value)


def _copies(variables: list[Any]) -> list[NDArray[Any]]:
    # Two variables of JAX that share an array could not both be given to a compiled step.
    return [variable.numpy() for variable in variables]
