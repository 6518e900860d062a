"""`PathwiseGPModel` in Ax: experiments with one and with two objectives, and candidates from a pool."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("botorch", reason="the BoTorch face needs the extra botorch")

from botorch.utils.datasets import SupervisedDataset

from sggp.botorch import PathwiseGPModel, PathwiseMixedGP, PathwiseMultiFidelityGP, PathwiseMultiTaskGP
from sggp.errors import InputError

AX_LOOKS_FOR = {"train_X", "train_Y", "train_Yvar", "covar_module", "input_transform", "outcome_transform"}


def test_the_constructor_names_what_ax_looks_for() -> None:
    assert set(inspect.getfullargspec(PathwiseGPModel).args) == {"self", *AX_LOOKS_FOR}


def test_models_of_the_same_options_have_paths_of_their_own() -> None:
    x = torch.rand(5, 1, dtype=torch.float64)

    def seed(name: str, generator: Any = 3) -> Any:
        data = SupervisedDataset(X=x, Y=x, feature_names=["a"], outcome_names=[name])
        return PathwiseGPModel.construct_inputs(data, generator=generator, num_samples=4)["generator"]

    assert seed("f") == seed("f") != seed("g")
    assert seed("f", 4) != seed("f")
    assert seed("f", None) is None


def test_categories_that_nobody_names_are_asked_for() -> None:
    x = torch.rand(5, 1, dtype=torch.float64)
    data = SupervisedDataset(X=x, Y=x, feature_names=["a"], outcome_names=["f"])
    with pytest.raises(InputError, match="BO_MIXED"):
        PathwiseMixedGP.construct_inputs(data)
    assert PathwiseMixedGP.construct_inputs(data, categorical_features=[0])["cat_dims"] == [0]


@pytest.mark.filterwarnings("default")  # Ax has its own
class TestExperiments:
    @pytest.fixture(autouse=True)
    def ax(self) -> None:
        pytest.importorskip("ax.api.client", reason="Ax is not installed: pip install ax-platform")

    @staticmethod
    def client(objective: str, nodes: list[Any], *parameters: Any) -> Any:
        from ax.api.client import Client
        from ax.generation_strategy.generation_strategy import GenerationStrategy

        client = Client(random_seed=0)
        client.configure_experiment(name="test", parameters=list(parameters))
        client.configure_optimization(objective=objective)
        client.set_generation_strategy(GenerationStrategy(nodes=nodes))
        return client

    @pytest.mark.parametrize("objective", ["-f", "-f, -g"])
    def test_a_loop(self, objective: str) -> None:
        """A surrogate of the user's own, in which nothing but the class names sggp."""
        from ax.adapter.registry import Generators
        from ax.api.configs import RangeParameterConfig
        from ax.generation_strategy.generation_node import GenerationNode
        from ax.generation_strategy.generator_spec import GeneratorSpec
        from ax.generation_strategy.transition_criterion import MinTrials
        from ax.generators.torch.botorch_modular.surrogate import ModelConfig, SurrogateSpec

        config = ModelConfig(
            botorch_model_class=PathwiseGPModel,
            model_options={"generator": 0, "num_samples": 32, "num_features": 256},
        )
        ours = {"surrogate_spec": SurrogateSpec(model_configs=[config])}
        first = GeneratorSpec(generator_enum=Generators.SOBOL, generator_kwargs={"seed": 0})
        then = GeneratorSpec(generator_enum=Generators.BOTORCH_MODULAR, generator_kwargs=ours)
        enough = MinTrials(threshold=6, transition_to="model", use_all_trials_in_exp=True)
        nodes = [
            GenerationNode(name="start", generator_specs=[first], transition_criteria=[enough]),
            GenerationNode(name="model", generator_specs=[then]),
        ]
        sides = [RangeParameterConfig(name=n, parameter_type="float", bounds=(-5, 10)) for n in ("a", "b")]
        client, found = self.client(objective, nodes, *sides), []
        for _ in range(8 if "g" in objective else 12):
            for trial, point in client.get_next_trials(1).items():
                values = {"f": (point["a"] - 3) ** 2 + (point["b"] - 2) ** 2}
                found.append(values["f"])
                if "g" in objective:
                    values["g"] = (point["a"] + 1) ** 2 + (point["b"] - 2) ** 2
                client.complete_trial(trial, raw_data=values)
        surrogate = client._generation_strategy.adapter.generator.surrogate
        models = surrogate.model.models if "g" in objective else [surrogate.model]
        assert all(type(model) is PathwiseGPModel for model in models)
        if "g" in objective:
            assert len(client.get_pareto_frontier())
            first_two = [m.posterior(torch.zeros(1, 2).double()).rsample(torch.Size([2])) for m in models]
            assert not torch.equal(*first_two)
        else:
            assert min(found[6:]) < min(found[:6])  # the model found something better than Sobol's points

    @pytest.mark.parametrize(
        ("model", "named"),
        [
            (PathwiseMixedGP, {"categorical_features": [1]}),
            (PathwiseMultiTaskGP, {"task_features": [1]}),
            (PathwiseMultiFidelityGP, {"fidelity_features": [1]}),
        ],
    )
    def test_siblings_as_surrogates(self, model: Any, named: dict[str, list[int]]) -> None:
        """What the search space says of a column reaches the model, which answers for the target of that column."""
        from ax.core.search_space import SearchSpaceDigest
        from ax.generators.torch.botorch_modular.surrogate import Surrogate

        from sggp.botorch.ax import surrogate_spec

        x = torch.rand(24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        x[:, 1] = torch.arange(24) % 2
        y = torch.sin(5 * x[:, :1]) + x[:, 1:]
        data = SupervisedDataset(x, y, feature_names=["a", "b"], outcome_names=["f"])
        values = {"discrete_choices": {1: [0, 1, 2]}, "target_values": {1: 1.0}}
        digest = SearchSpaceDigest(["a", "b"], [(0, 1), (0, 2)], **values, **named)  # type: ignore[arg-type]
        surrogate = Surrogate(surrogate_spec=surrogate_spec(model, num_samples=8, generator=0))
        surrogate.fit([data], digest)
        assert type(surrogate.model) is model
        mean, _ = surrogate.predict(x)
        assert float((mean - y).abs().mean()) < 0.1
        if model is PathwiseMultiTaskGP:
            assert surrogate.model.output_tasks == [1]
            torch.testing.assert_close(surrogate.model.posterior(x[1::2, :1]).mean, mean[1::2])

    @staticmethod
    def pool() -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(300, 1, generator=generator)  # rows with few bits and with many
        bits = (torch.rand(300, 24, generator=generator) < share).byte()
        return bits, bits[:, :12].double().sum(1)

    @pytest.mark.parametrize("sign", ["", "-"])
    def test_candidates_from_a_pool(self, sign: str) -> None:
        from ax.api.configs import RangeParameterConfig
        from gpytorch.kernels import ScaleKernel

        from sggp.botorch.ax import PoolNode
        from sggp.kernels import TanimotoMinMax

        bits, values = self.pool()
        values = -values if sign else values
        node = PoolNode(
            bits, batch=4, num_samples=16, num_features=128, covar_module=ScaleKernel(TanimotoMinMax())
        )
        rows = RangeParameterConfig(name="row", parameter_type="int", bounds=(0, len(bits) - 1))
        client = self.client(f"{sign}score", [node], rows)
        client.attach_trial({"row": 7})  # is running elsewhere: never proposed
        seen: list[int] = []
        for _ in range(6):
            trials = client.get_next_trials(5)
            for trial, point in trials.items():
                seen.append(int(point["row"]))
                if len(seen) == 3:
                    client.mark_trial_failed(trial)
                else:
                    client.complete_trial(trial, raw_data={"score": float(values[seen[-1]])})
        assert len(set(seen)) == 30
        assert 7 not in seen
        best = -values if sign else values
        assert best[seen[20:]].mean() > best.mean() + 0.5 * best.std()

    def test_an_exhausted_pool_says_so(self) -> None:
        from ax.api.configs import RangeParameterConfig
        from ax.exceptions.core import SearchSpaceExhausted

        from sggp.botorch.ax import PoolNode

        node = PoolNode(torch.rand(4, 2))
        client = self.client(
            "y", [node], RangeParameterConfig(name="row", parameter_type="int", bounds=(0, 3))
        )
        for trial in client.get_next_trials(4):
            client.complete_trial(trial, raw_data={"y": 1.0 + trial})
        node.update_generator_state(client._experiment, client._experiment.lookup_data())
        with pytest.raises(SearchSpaceExhausted, match="all 4 rows"):
            node.get_next_candidate([])
