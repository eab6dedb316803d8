"""One Locust user class per protocol: each asks golden questions one after the other, without a pause."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import ClassVar

import gevent
from locust import User, constant, task
from locust.exception import StopUser

from loadtests.cell_spec import Protocol, Target
from loadtests.clients import Client
from loadtests.engine.asking import client_for
from loadtests.errors import LoadTestError
from loadtests.golden import question_order
from loadtests.load import LOADS, Load
from loadtests.options import target_of_options
from loadtests.questions import Questions, astray
from loadtests.replies import Outcome, ServedBy

logger = logging.getLogger(__name__)

# After a lost connection a user waits a moment: a server that is gone must not be met by a busy loop.
_PAUSE_AFTER_LOSS_S = 0.05


class FailedRequestError(Exception):
    """A request without a right answer, as Locust's own statistics want it."""


class GoldenUser(User):
    """Asks a model its golden questions over `wire`; which, and where, the options say."""

    abstract = True
    wire: ClassVar[Protocol]
    door: ClassVar[bool] = False  # whether to speak it to the gateway rather than to the server whose it is
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connects nothing yet: prepares the client and the questions."""
        load = self._load
        try:
            self._target: Target = target_of_options(self.environment.parsed_options, self.wire, door=self.door)
            self._questions: Questions = load.questions(self._target)
            self._client: Client = client_for(self._target, timeout=load.timeout_s)
        except LoadTestError as exc:
            logger.error("%s", exc)
            raise StopUser from exc
        self._requests = [self._client.prepared(body) for body in self._questions.bodies]
        self._order: Iterator[int] = itertools.cycle(question_order(len(self._requests), load.next_user()))

    def on_stop(self) -> None:
        """Closes the connection."""
        if hasattr(self, "_client"):
            self._client.close()

    @task
    def ask(self) -> None:
        """One question: sent, read, then judged outside the timer."""
        question = next(self._order)
        reply = self._client.send(self._requests[question])
        outcome, detail = self._questions.judged(question, reply)
        if outcome is Outcome.OK and (wrong := astray(self._target, ServedBy.of(reply.marks))):
            outcome, detail = Outcome.WRONG_ANSWER, wrong
        self.environment.events.request.fire(
            request_type=self.wire,
            name=self._target.name,
            response_time=reply.seconds * 1e3,
            response_length=len(reply.body),
            exception=None if outcome is Outcome.OK else FailedRequestError(f"{outcome}: {detail}"),
            context={},
        )
        if outcome is Outcome.CONN_ERROR:
            gevent.sleep(_PAUSE_AFTER_LOSS_S)

    @property
    def _load(self) -> Load:
        return LOADS[self.environment]


class PredictUser(GoldenUser):
    """The gateway's `POST /predict`."""

    wire = "predict"


class OipRestUser(GoldenUser):
    """The gateway's Open Inference Protocol over REST."""

    wire = "oip-rest"


class OipGrpcUser(GoldenUser):
    """The gateway's Open Inference Protocol over gRPC."""

    wire = "oip-grpc"


class TorchServeRestUser(GoldenUser):
    """TorchServe directly, over REST with our handler's JSON."""

    wire = "torchserve-rest"


class TorchServeGrpcUser(GoldenUser):
    """TorchServe directly, over gRPC with our handler's JSON."""

    wire = "torchserve-grpc"


class TfServingRestUser(GoldenUser):
    """TF Serving directly, over REST in the column form."""

    wire = "tfserving-rest"


class TfServingGrpcUser(GoldenUser):
    """TF Serving directly, over gRPC."""

    wire = "tfserving-grpc"


class GatewayTorchServeRestUser(TorchServeRestUser):
    """The gateway's TorchServe door, over REST."""

    door = True


class GatewayTorchServeGrpcUser(TorchServeGrpcUser):
    """The gateway's TorchServe door, over gRPC."""

    door = True


class GatewayTfServingRestUser(TfServingRestUser):
    """The gateway's TF Serving door, over REST."""

    door = True


class GatewayTfServingGrpcUser(TfServingGrpcUser):
    """The gateway's TF Serving door, over gRPC."""

    door = True
