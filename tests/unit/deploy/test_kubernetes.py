"""deploy/kubernetes: manifests that the API accepts, and that fit the image and each other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from receiver.config.settings import Settings
from receiver.web.server import LEAVE_WITHIN, STOP_TIMEOUT
from tests.support.command import call_command
from tests.support.deploy_files import default, parse
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BASE: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest for name in BASE["resources"] for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
OPTIONAL: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "optional").iterdir())
}
WORKLOADS = [each for each in MANIFESTS if each["kind"] in ("Deployment", "StatefulSet")]
PROCESSES = {"receiver": "serve", "worker": "worker", "clock": "clock"}

workloads = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each["metadata"]["name"])


def generated() -> dict[str, list[str]]:
    """The files of each ConfigMap that kustomize makes."""
    return {each["name"]: [*each.get("files", ()), *each.get("envs", ())] for each in BASE["configMapGenerator"]}


def component(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def references(value: Any) -> Iterator[tuple[str, str]]:
    """The ConfigMaps and Secrets that a manifest names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("configMap", "configMapRef", "secret", "secretRef"):
                yield key.removesuffix("Ref"), inner.get("name") or inner["secretName"]
            yield from references(inner)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_manifest_follows_the_kubernetes_api(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


@workloads
def test_container_is_hardened_and_runs_a_command(workload: dict[str, Any]) -> None:
    name, *options = container(workload)["args"]
    pod = workload["spec"]["template"]["spec"]

    assert name == PROCESSES[component(workload)]
    assert "command" not in container(workload)  # the entrypoint runs
    parse([name, *options])
    assert f"useradd --uid {pod['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(workload)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]  # the Service's own variables would begin with RUNHOOK_
    assert container(workload)["resources"].keys() == {"requests", "limits"}


@workloads
def test_mounts_are_where_runhook_reads_and_writes(workload: dict[str, Any]) -> None:
    mounts = {each["name"]: each["mountPath"] for each in container(workload)["volumeMounts"]}
    writable = {each["mountPath"] for each in container(workload)["volumeMounts"] if not each.get("readOnly")}
    (data,) = [each["value"] for each in container(workload)["env"] if each["name"] == "RUNHOOK_DATA"]

    assert (mounts["config"], mounts["secrets"]) == ("/etc/runhook", "/run/secrets")
    assert set(references(workload)) == {("secret", "runhook"), *(("configMap", name) for name in generated())}
    assert writable == {"/var/lib/runhook", "/tmp"}
    assert Path(data).is_relative_to("/var/lib/runhook")


@workloads
def test_pod_has_time_to_stop(workload: dict[str, Any]) -> None:
    longest = {
        "receiver": 5 + STOP_TIMEOUT + LEAVE_WITHIN,  # with the seconds of preStop
        "worker": default("worker", "stop_timeout"),
        "clock": 5,
    }

    assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > longest[component(workload)]


def test_spool_outlives_the_pod() -> None:
    receiver = next(each for each in WORKLOADS if component(each) == "receiver")["spec"]
    mounts = {each["mountPath"]: each["name"] for each in container({"spec": receiver})["volumeMounts"]}

    (claim,) = receiver["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == mounts["/var/lib/runhook"]
    assert receiver["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_variables_and_config_are_valid(tmp_path: Path) -> None:
    lines = (FOLDER / "runhook.env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert variables.keys() <= {each.validation_alias for each in Settings.model_fields.values()}

    secrets = {"SKYVERN_API_KEY": "a-key", "DATABASE_URL": "postgresql://runhook:x@postgres/runhook"}
    secrets["RESULTS_DATABASE_URL"] = "postgresql://runhook:x@postgres/results"
    checked = call_command(
        "check",
        str(FOLDER / "runhook.yaml"),
        environ={**variables, **secrets, "RUNHOOK_DATA": str(tmp_path)},
        directory=tmp_path,
    )
    assert checked.returncode == 0
    assert "warning" not in checked.stdout + checked.stderr


def test_kustomization_lists_every_file() -> None:
    listed = {*BASE["resources"], *(name for names in generated().values() for name in names)}

    assert listed == {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml", "optional"}


def service() -> dict[str, Any]:
    (only,) = [each for each in MANIFESTS if each["kind"] == "Service"]
    return only


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_ingress_publishes_the_paths_of_the_deployment_page(version: str) -> None:
    ingress = OPTIONAL["ingress"]
    kubernetes_validate.validate(ingress, version, strict=True)
    (rule,) = ingress["spec"]["rules"]
    (line,) = re.findall(r"^- expose only (.*?)\.", (ROOT / "docs/how-to/deployment.md").read_text(), re.MULTILINE)

    assert [each["path"] for each in rule["http"]["paths"]] == re.findall("`(.*?)`", line)
    backends = [each["backend"]["service"] for each in rule["http"]["paths"]]
    port = {"name": service()["spec"]["ports"][0]["name"]}
    assert backends == [{"name": service()["metadata"]["name"], "port": port}] * 3


def test_service_monitor_selects_the_service_and_its_port() -> None:
    monitor = OPTIONAL["servicemonitor"]["spec"]

    assert monitor["selector"]["matchLabels"] == service()["metadata"]["labels"]
    assert [each["port"] for each in monitor["endpoints"]] == [service()["spec"]["ports"][0]["name"]]


@workloads
def test_only_the_receiver_is_reached_in_the_cluster(workload: dict[str, Any]) -> None:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    found = [each["spec"] for each in MANIFESTS if each["kind"] == "NetworkPolicy" and selects(each, labels)]
    ports = [rule["ports"] for spec in found for rule in spec.get("ingress", ())]

    assert [spec["policyTypes"] for spec in found] == [["Ingress"]]
    assert ports == ([[{"port": "http"}]] if component(workload) == "receiver" else [])


def selects(policy: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a policy selects pods with these labels, as far as the manifests use selectors."""
    selector = policy["spec"]["podSelector"]
    others = selector.get("matchExpressions", ())
    assert all(each["operator"] == "NotIn" for each in others)
    return selector["matchLabels"].items() <= labels.items() and all(
        labels[each["key"]] not in each["values"] for each in others
    )


def test_service_and_probes_lead_to_the_receiver() -> None:
    receiver = next(each for each in WORKLOADS if component(each) == "receiver")
    probed = container(receiver)

    assert (probed["livenessProbe"]["httpGet"]["path"], probed["readinessProbe"]["httpGet"]["path"]) == (
        "/healthz",
        "/readyz",
    )
    assert service()["spec"]["selector"] == receiver["metadata"]["labels"]
    assert service()["metadata"]["name"] == receiver["spec"]["serviceName"]
    assert service()["spec"]["ports"][0]["targetPort"] == probed["ports"][0]["name"]
