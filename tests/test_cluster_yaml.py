"""The descriptions of clusters, read the way Ray reads them, up to the first call of the cloud."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)  # its file mounts are relative to where `ray up` runs
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster(cluster: dict[str, Any]):
    validate_config(prepare_config(cluster))


def test_ray_refuses_an_unknown_key(cluster: dict[str, Any]):
    cluster["idle_timeout"] = 5
    with pytest.raises(ValidationError, match="idle_timeout"):
        validate_config(prepare_config(copy.deepcopy(cluster)))


def test_gpu_workers_come_and_go_beside_a_head_without_gpu(cluster: dict[str, Any]):
    nodes = prepare_config(cluster)["available_node_types"]
    assert "GPU" not in nodes[cluster["head_node_type"]]["resources"]
    assert nodes["gpu_worker"]["resources"]["GPU"] == 1
    assert (nodes["gpu_worker"]["min_workers"], nodes["gpu_worker"]["max_workers"]) == (0, 8)


def test_the_images_hold_the_ray_of_the_tested_set(cluster: dict[str, Any]):
    tested = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None
    for image in (cluster["docker"]["head_image"], cluster["docker"]["worker_image"]):
        assert image.startswith(f"rayproject/ray:{tested[1]}-")


def test_local_files_that_are_mounted_are_in_the_tree(cluster: dict[str, Any]):
    ours = [path for path in cluster["file_mounts"].values() if path.startswith("./")]
    assert ours
    assert all((ROOT / path).is_file() for path in ours)


@pytest.fixture
def kuberay() -> dict[str, dict[str, Any]]:
    """Return the objects of deploy/kuberay.yaml by kind."""
    text = (ROOT / "deploy" / "kuberay.yaml").read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def pods(kuberay: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    spec = kuberay["RayCluster"]["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_ray_scales_the_kubernetes_cluster(kuberay: dict[str, dict[str, Any]]):
    cluster = kuberay["RayCluster"]
    cluster["metadata"]["namespace"] = "default"  # where none is given
    nodes = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert (nodes["gpu"]["min_workers"], nodes["gpu"]["max_workers"]) == (0, 8)
    assert nodes["gpu"]["resources"]["GPU"] == 1
    assert "GPU" not in nodes["headgroup"]["resources"]


def test_all_pods_mount_the_shared_volume(kuberay: dict[str, dict[str, Any]]):
    claim = kuberay["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(kuberay):
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        assert claims == {"shared": claim["metadata"]["name"]}
        assert mounts["shared"] == "/shared"


def test_the_kubernetes_cluster_has_the_ray_of_the_tested_set(kuberay: dict[str, dict[str, Any]]):
    tested = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tested is not None
    assert kuberay["RayCluster"]["spec"]["rayVersion"] == tested[1]
    assert all(pod["containers"][0]["image"].endswith(f":{tested[1]}") for pod in pods(kuberay))


# --------------------------------------------------------------------------- who may reach it


def test_ssh_is_open_to_nobody_but_whom_the_user_lets_in(cluster: dict[str, Any]):
    # without a group of its own a node gets Ray's, which lets SSH in from everywhere
    nodes = prepare_config(cluster)["available_node_types"].values()
    groups = [node["node_config"]["SecurityGroupIds"] for node in nodes]
    assert groups == [["sg-00000000000000000"]] * 2
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert "0.0.0.0" not in text


def test_the_shared_directory_is_the_clusters_user_s_alone(cluster: dict[str, Any]):
    commands = " ".join(cluster["initialization_commands"])
    assert re.findall(r"ch(?:mod|own) \S+ /shared", commands) == [
        "chown 1000:1000 /shared",
        "chmod 0770 /shared",
    ]


def test_every_ray_on_aws_asks_for_the_token(cluster: dict[str, Any]):
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in each for each in starts if "ray start" in each)
    assert "--dashboard-host=127.0.0.1" in " ".join(starts)


def test_every_ray_on_kubernetes_asks_for_the_token(kuberay: dict[str, dict[str, Any]]):
    spec = kuberay["RayCluster"]["spec"]
    containers = [pod["containers"][0] for pod in pods(kuberay)]
    for holder in (spec["autoscalerOptions"], *containers):
        variables = {each["name"]: each for each in holder["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        token = variables["RAY_AUTH_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"]["key"] == "auth_token"
        assert "value" not in token, "a token does not stand in the file"


def test_only_the_clusters_own_pods_reach_it(kuberay: dict[str, dict[str, Any]]):
    cluster = kuberay["RayCluster"]
    own = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    policy = kuberay["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == own
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": own}]}]
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"


def test_pods_run_as_the_one_user_of_the_volume(kuberay: dict[str, dict[str, Any]]):
    for pod in pods(kuberay):
        assert pod["securityContext"] == {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
