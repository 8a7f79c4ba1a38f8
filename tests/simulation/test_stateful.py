"""Hypothesis drives the same world by hand: a failure prints the program that leads to it."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.world import KEYS, MODELS, TAKEN, Faults, World
from vllm_fsm.core import events as ev
from vllm_fsm.core import naming
from vllm_fsm.core.snapshot import Finding, Target
from vllm_fsm.core.states import Engine

BAD = Finding.of("BadArguments", permanent=True, detail="no model")


class Controller(RuleBasedStateMachine):
    """The world with its dice in Hypothesis's hands."""

    def __init__(self):
        super().__init__()
        self.world = World(0, edits=False)
        self.usual = Faults()

    def want(self, target):
        self.world.starts.clear()
        self.world.wanted = target
        self.world.feed(ev.WantedChanged(self.world.now, target))

    @rule(seed=st.integers(0, 2**16))
    def dice(self, seed):
        self.world.random.seed(seed)

    @rule(model=st.sampled_from(MODELS), key=st.sampled_from(KEYS))
    def choose(self, model, key):
        self.want(Target((model,), (), key, model))

    @rule()
    def clear(self):
        self.want(None)

    @rule(key=st.sampled_from(KEYS))
    def choose_nonsense(self, key):
        self.want(Target(("--oops",), (), key, "", BAD))

    @rule(models=st.sets(st.sampled_from(MODELS)))
    def hub_goes_down(self, models):
        self.world.cached = models
        self.world.faults = Faults(missing=1.0, download_fails=1.0)

    @rule()
    def hub_comes_back(self):
        self.world.faults = self.usual

    @rule()
    def retry(self):
        self.world.starts.clear()
        self.world.feed(ev.RetryRequested(self.world.now))

    @rule(seconds=st.floats(0.1, 3600))
    def take_the_port(self, seconds):
        self.world.port_taken_until = self.world.now + seconds

    @precondition(lambda self: self.world.snapshot.engine is Engine.ALIVE)
    @rule()
    def steal_the_port(self):
        self.world.starts.clear()
        self.world.feed(ev.PortTaken(self.world.now, self.world.snapshot.epoch, TAKEN))

    @rule()
    def stop(self):
        self.world.feed(ev.StopRequested(self.world.now))

    @rule(turns=st.integers(1, 20))
    def go_on(self, turns):
        for _ in range(turns):
            if self.world.queue:
                self.world.turn()

    @rule(seconds=st.floats(0.01, 5000))
    def let_time_pass(self, seconds):
        end = self.world.now + seconds
        while self.world.queue and self.world.queue[0][0] <= end:
            self.world.turn()
        self.world.now = end

    @invariant()
    def the_state_has_its_name(self):
        assert self.world.snapshot.state is naming.name(self.world.snapshot)

    def teardown(self):
        self.world.settle(7200.0)
        assert self.world.settled() is None


class KindController(Controller):
    """The same without faults of the world's own."""

    def __init__(self):
        super().__init__()
        self.world.faults = self.usual = Faults.none()


Controller.TestCase.settings = KindController.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestController = Controller.TestCase
TestKindController = KindController.TestCase
