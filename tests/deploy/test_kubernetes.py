"""The manifests for Kubernetes, validated with its published models, and the configuration of the service."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from lightkube.models import core_v1, networking_v1
from pydantic import BaseModel, ConfigDict, Field
from ray.serve.schema import ServeDeploySchema

from raycrnn import config, storage
from raycrnn.serving import deployment, proxy_middleware, run
from tests.deploy.cluster_files import (
    KUBERNETES,
    read,
    text_of,
)


class Part(BaseModel):
    """A part of KubeRay's API (ray.io/v1), with only the fields that the files use."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Part):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)]


class Auth(Part):
    mode: Literal["token", "disabled"]
    secretName: str


class Autoscaler(Part):
    idleTimeoutSeconds: int
    securityContext: dict
    resources: dict


class Group(Part):
    rayStartParams: dict[str, str]
    template: dict


class HeadGroup(Group):
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"]


class WorkerGroup(Group):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class RayCluster(Part):
    rayVersion: str
    authOptions: Auth
    enableInTreeAutoscaling: bool
    autoscalerOptions: Autoscaler
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class JobSpec(Part):
    entrypoint: str
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    activeDeadlineSeconds: int
    submitterPodTemplate: dict
    rayClusterSpec: RayCluster


class ServiceSpec(Part):
    excludeHeadPodFromServeSvc: bool
    serveConfigV2: str
    rayClusterConfig: RayCluster


class RayJob(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


class RayService(Part):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: ServiceSpec


def objects(name: str) -> dict[str, dict[str, Any]]:
    """Return the Kubernetes objects of a file, by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(text_of(name))}


def ray_cluster(name: str) -> RayCluster:
    if "rayjob" in name:
        return RayJob.model_validate(objects(name)["RayJob"]).spec.rayClusterSpec
    return RayService.model_validate(objects(name)["RayService"]).spec.rayClusterConfig


def pod_templates(name: str) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a file, by group."""
    cluster = ray_cluster(name)
    templates = {"head": cluster.headGroupSpec.template}
    templates |= {group.groupName: group.template for group in cluster.workerGroupSpecs}
    if "rayjob" in name:
        templates["submitter"] = objects(name)["RayJob"]["spec"]["submitterPodTemplate"]
    return templates


def known_to_kubernetes(data: dict[str, Any], kind: type) -> bool:
    """Return whether Kubernetes knows every field. Raises if a value has the wrong type."""
    return msgspec.to_builtins(msgspec.convert(data, kind)) == data


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_knows_every_field(name):
    found = objects(name)
    assert known_to_kubernetes(found["NetworkPolicy"], networking_v1.NetworkPolicy)
    if "ConfigMap" in found:
        assert known_to_kubernetes(found["ConfigMap"], core_v1.ConfigMap)
    for group, template in pod_templates(name).items():
        assert known_to_kubernetes(template, core_v1.PodTemplateSpec), group
    options = ray_cluster(name).autoscalerOptions
    assert known_to_kubernetes(options.resources, core_v1.ResourceRequirements)
    assert known_to_kubernetes(options.securityContext, core_v1.SecurityContext)


def test_a_misspelt_field_is_noticed():
    template = pod_templates(KUBERNETES[0])["head"]
    assert not known_to_kubernetes({**template, "sepc": {}}, core_v1.PodTemplateSpec)


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_have_no_privileges_and_request_what_they_may_use(name):
    for group, template in pod_templates(name).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, group
        assert pod["securityContext"]["runAsUser"] == 1000, "the Dockerfile's user"
        if group != "head":
            # The head's autoscaler asks Kubernetes for pods.
            assert pod["automountServiceAccountToken"] is False, group
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]})
            requests, limits = (container["resources"][part] for part in ("requests", "limits"))
            assert {"cpu", "memory"} <= set(requests) == set(limits)


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_cluster_is_not_reachable_from_outside(name):
    cluster = ray_cluster(name)
    assert cluster.headGroupSpec.serviceType == "ClusterIP"
    assert (cluster.authOptions.mode, cluster.authOptions.secretName) == ("token", "raycrnn-token")
    policy = objects(name)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    chosen = policy["podSelector"]["matchLabels"].items()
    for group, template in pod_templates(name).items():
        assert chosen <= template["metadata"]["labels"].items(), group
    for rule in policy["ingress"]:
        assert rule["from"], "an empty list would be everybody"
        within = rule["from"] == [{"podSelector": policy["podSelector"]}]
        assert within or {port["port"] for port in rule["ports"]} <= {8265, 8000}


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_head_runs_no_tasks_and_the_version_of_ray_is_the_tested_one(name):
    cluster = ray_cluster(name)
    assert cluster.headGroupSpec.rayStartParams == {"num-cpus": "0", "num-gpus": "0"}
    assert f"ray=={cluster.rayVersion}\n" in text_of("constraints.txt")
    assert all(group.minReplicas <= group.replicas <= group.maxReplicas for group in cluster.workerGroupSpecs)


def test_the_job_has_a_training_worker_for_each_gpu_pod():
    spec = RayJob.model_validate(objects(KUBERNETES[0])["RayJob"]).spec
    groups = {group.groupName: group for group in spec.rayClusterSpec.workerGroupSpecs}
    assert set(groups) == {"gpu", "decode"}
    assert groups["gpu"].template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in groups["decode"].template["spec"]["containers"][0]["resources"]["limits"]
    assert [group.minReplicas for group in groups.values()] == [0, 0]
    assert f"cluster.num_workers={groups['gpu'].replicas}" in spec.entrypoint.split()
    assert spec.shutdownAfterJobFinishes
    assert spec.ttlSecondsAfterFinished > 0


def test_the_jobs_command_and_configuration_are_valid(tmp_path):
    found = objects(KUBERNETES[0])
    program, verb, path, *overrides = shlex.split(found["RayJob"]["spec"]["entrypoint"])
    assert (program, verb) == ("raycrnn", "train")
    (mount,) = pod_templates(KUBERNETES[0])["head"]["spec"]["containers"][0]["volumeMounts"]
    assert Path(path).parent == Path(mount["mountPath"])
    file = tmp_path / Path(path).name
    file.write_text(found["ConfigMap"]["data"][file.name])
    settings = config.load(str(file), overrides)
    assert (settings.restore_model, settings.cluster.use_gpu) == (True, True)
    assert settings.output_model_dir.startswith("s3://")
    (volume,) = pod_templates(KUBERNETES[0])["head"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


def test_the_service_is_valid_for_serve_deploy():
    spec = RayService.model_validate(objects(KUBERNETES[1])["RayService"]).spec
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(spec.serveConfigV2))
    shipped = ServeDeploySchema.model_validate(read("deploy/serve_config.yaml"))
    (application,), (known,) = deployed.applications, shipped.applications
    assert application.import_path == known.import_path == "raycrnn.serve:app"
    settings = deployment.Settings(**application.args)
    assert settings.limits == deployment.Settings(**known.args).limits
    assert deployed.http_options.port == 8000
    assert spec.excludeHeadPodFromServeSvc
    for group, template in pod_templates(KUBERNETES[1]).items():
        (container,) = template["spec"]["containers"]
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        # The keys that the model's bucket asks for, as the training has them.
        assert storage.is_uri(settings.model)
        assert [each["secretRef"]["name"] for each in container["envFrom"]] == ["raycrnn-storage"]
        assert {str(Path(settings.token_file).parent)} == mounted
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        assert volumes == {each["name"] for each in container["volumeMounts"]}
        if group != "head":
            assert settings.cpus <= float(container["resources"]["limits"]["cpu"])


def test_the_proxies_of_the_service_have_the_middleware_and_its_limits():
    limits = deployment.Settings(model="m").limits
    for template in pod_templates(KUBERNETES[1]).values():
        (container,) = template["spec"]["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert run.ENVIRONMENT.items() <= environment.items()
        assert float(environment[proxy_middleware.MAX_BODY_VARIABLE]) == limits.max_body_mb
        assert int(environment[proxy_middleware.MAX_REQUESTS_VARIABLE]) == proxy_middleware.MAX_REQUESTS
