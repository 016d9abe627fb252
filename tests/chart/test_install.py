"""The chart on a real API server: what it installs, what the operator's account may then do, what stays behind."""

from __future__ import annotations

import copy
import itertools

import pytest
import yaml
from api import Api, eventually
from rendering import CHART, EXAMPLES, NAMESPACE, RELEASE, helm, objects, template, values_file
from world.control_plane import ControlPlane

TEAM = "team"
AGENTS = f"/apis/skykoi.io/v1alpha1/namespaces/{TEAM}/koiagents"
PLANS = "/apis/skykoi.io/v1alpha1/koiplans"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:koi-operator"
CHART_ARGS = ("--set", "clusterId=chart-test", "--set", "defaultPlan.spec.gateway.version=0.1.0")


def namespace(name: str, **labels: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def agent(name: str) -> dict:
    return {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "metadata": {"name": name}, "spec": {}}


def secret(name: str, **labels: str) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels},
        "stringData": {"token": "x"},
    }


def secret_of(agent: str, uid: str = "7f0a", **changes: object) -> dict:
    """An agent's, as the operator makes it."""
    owner = {"apiVersion": "skykoi.io/v1alpha1", "kind": "KoiAgent", "name": agent, "uid": uid, "controller": True}
    made = secret(f"{agent}-gateway", **{"skykoi.io/agent": uid})
    made["metadata"]["ownerReferences"] = [owner]
    return {**made, **changes}


@pytest.fixture(scope="module")
def admin(plane: ControlPlane) -> Api:
    """The chart is installed, with the default plan, in a namespace that holds Pods to the restricted standard."""
    admin = Api.admin(plane)
    admin.create("/api/v1/namespaces", namespace(NAMESPACE, **{"pod-security.kubernetes.io/enforce": "restricted"}))
    admin.create("/api/v1/namespaces", namespace(TEAM, **{"skykoi.io/team": "research"}))
    helm("install", RELEASE, str(CHART), "--namespace", NAMESPACE, *CHART_ARGS, kubeconfig=plane.kubeconfig)
    return admin


@pytest.fixture(scope="module")
def operator(admin: Api) -> Api:
    return admin.as_service_account(NAMESPACE, "koi-operator")


# what is installed


def test_the_default_plan_is_there(admin: Api) -> None:
    plan = admin.get(f"{PLANS}/default")
    assert plan is not None
    assert plan["spec"] == {"default": True, "gateway": {"version": "0.1.0"}}


def test_the_pod_meets_the_restricted_standard(admin: Api) -> None:
    deployment = admin.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/koi-operator")
    assert deployment is not None
    pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All"
    good, bad = copy.deepcopy(pod), copy.deepcopy(pod)
    good["metadata"]["name"] = bad["metadata"]["name"] = "operator"
    bad["spec"]["containers"][0]["securityContext"].pop("capabilities")
    assert admin.call("POST", pods, good).status_code == 201
    assert "unrestricted capabilities" in admin.call("POST", pods, bad).text


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_are_accepted(admin: Api, file) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        path = AGENTS if document["kind"] == "KoiAgent" else PLANS
        answer = admin.call("POST", f"{path}?dryRun=All&fieldValidation=Strict", document)
        assert answer.ok, answer.text


def test_the_full_example_shows_every_field(admin: Api) -> None:
    """Every field of the CRD but the second way to name an image."""

    def fields(schema: dict, path: str) -> set[str]:
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return {path}
        below = [fields(child, f"{path}.{key}") for key, child in schema.get("properties", {}).items()]
        return set().union(*below) if below else {path}

    def shown(value: object, known: set[str], path: str) -> set[str]:
        if path in known or not isinstance(value, dict):
            return {path}
        return set().union(*(shown(child, known, f"{path}.{key}") for key, child in value.items()))

    crd = yaml.safe_load((CHART / "crds" / "koiagents.skykoi.io.yaml").read_text())
    known = fields(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")
    example = yaml.safe_load((EXAMPLES / "agent-full.yaml").read_text())
    assert known - shown(example["spec"], known, "spec") == {"spec.instance.image.id"}


# what RBAC allows the operator's account

ALLOWED = [
    *((verb, "skykoi.io", "koiagents", TEAM, "any") for verb in ("get", "list", "watch", "patch")),
    ("patch", "skykoi.io", "koiagents/status", TEAM, "any"),
    ("update", "skykoi.io", "koiagents/finalizers", TEAM, "any"),
    *((verb, "skykoi.io", "koiplans", "", "any") for verb in ("get", "list", "watch")),
    ("patch", "skykoi.io", "koiplans/status", "", "any"),
    *((verb, "", "secrets", TEAM, "any") for verb in ("get", "list", "watch", "create", "patch")),
    ("get", "", "configmaps", TEAM, "any"),
    *((verb, "", "namespaces", "", "kube-system") for verb in ("get", "list", "watch")),
    *((verb, "events.k8s.io", "events", TEAM, "any") for verb in ("create", "patch")),
    ("create", "coordination.k8s.io", "leases", NAMESPACE, ""),
    *((verb, "coordination.k8s.io", "leases", NAMESPACE, "koi-operator") for verb in ("get", "update", "patch")),
    *((verb, "", "secrets", NAMESPACE, "koi-operator-device") for verb in ("get", "create", "patch")),
    ("get", "apiextensions.k8s.io", "customresourcedefinitions", "", "koiagents.skykoi.io"),
    ("get", "apiextensions.k8s.io", "customresourcedefinitions", "", "koiplans.skykoi.io"),
    # RBAC can select Secrets neither by label nor by a pattern of names. watchNamespace is the answer, see below.
    ("get", "", "secrets", "kube-system", "any"),
]

FORBIDDEN = [
    *((verb, "skykoi.io", "koiagents", TEAM, "any") for verb in ("create", "update", "delete", "deletecollection")),
    ("update", "skykoi.io", "koiagents/status", TEAM, "any"),
    *((verb, "skykoi.io", "koiplans", "", "any") for verb in ("create", "update", "patch", "delete")),
    *((verb, "", "secrets", TEAM, "any") for verb in ("update", "delete", "deletecollection")),
    *((verb, "", "configmaps", TEAM, "any") for verb in ("list", "watch", "create", "patch", "delete")),
    *((verb, "", "namespaces", "", "any") for verb in ("create", "patch", "delete")),
    ("create", "", "events", TEAM, "any"),
    ("list", "events.k8s.io", "events", TEAM, "any"),
    ("create", "coordination.k8s.io", "leases", "kube-system", ""),
    *((verb, "coordination.k8s.io", "leases", NAMESPACE, "other") for verb in ("get", "update", "patch")),
    ("delete", "coordination.k8s.io", "leases", NAMESPACE, "koi-operator"),
    ("get", "apiextensions.k8s.io", "customresourcedefinitions", "", "others.example.com"),
    *(
        (verb, "apiextensions.k8s.io", "customresourcedefinitions", "", "koiagents.skykoi.io")
        for verb in ("list", "patch", "delete")
    ),
    *((verb, "", "pods", TEAM, "any") for verb in ("get", "list", "create", "delete")),
    ("create", "", "pods/exec", TEAM, "any"),
    ("create", "", "serviceaccounts/token", NAMESPACE, "koi-operator"),
    ("get", "", "nodes", "", "any"),
    ("create", "rbac.authorization.k8s.io", "rolebindings", TEAM, "any"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles", "", "any"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles", "", "cluster-admin"),
    ("impersonate", "", "users", "", "any"),
    ("delete", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "any"),
    ("patch", "apps", "deployments", NAMESPACE, "koi-operator"),
]


def attributes(group: str, resource: str, where: str, name: str) -> dict[str, str]:
    resource, _, sub = resource.partition("/")
    return {"group": group, "resource": resource, "subresource": sub, "namespace": where, "name": name}


def test_the_account_may_do_what_it_needs_and_no_more(operator: Api) -> None:
    rows = [(row, True) for row in ALLOWED] + [(row, False) for row in FORBIDDEN]
    assert [row for row, expected in rows if operator.may(row[0], attributes(*row[1:])) != expected] == []


def test_the_table_covers_every_rule(admin: Api) -> None:
    """A right that is added to the chart without a line above makes this fail."""
    listed = {(group, resource, verb) for verb, group, resource, _, _ in ALLOWED}
    granted = set()
    for role in objects(template("--set", "clusterId=a,rbac.userRoles=false")).values():
        for rule in role.get("rules", []) if role["kind"] in ("ClusterRole", "Role") else []:
            granted |= {(g, r, v) for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    # The answer to a patch of a status is the object; get of the subresource is how kubectl and kube-rs read it back.
    assert granted - listed == {("skykoi.io", "koiagents/status", "get"), ("skykoi.io", "koiplans/status", "get")}


# what the admission policies hold the account to


@pytest.fixture
def one_agent(admin: Api) -> str:
    admin.create(AGENTS, agent("one"))
    yield f"{AGENTS}/one"
    admin.call("PATCH", f"{AGENTS}/one", {"metadata": {"finalizers": []}})
    admin.call("DELETE", f"{AGENTS}/one")


def test_the_operator_writes_finalizers_and_status(operator: Api, one_agent: str) -> None:
    assert operator.call("PATCH", one_agent, {"metadata": {"finalizers": ["skykoi.io/instance"]}}).ok
    applied = {
        "apiVersion": "skykoi.io/v1alpha1",
        "kind": "KoiAgent",
        "metadata": {"name": "one"},
        "status": {"observedGeneration": 1},
    }
    answer = operator.call(
        "PATCH", f"{one_agent}/status?fieldManager=koi-operator&force=true", applied, "apply-patch+yaml"
    )
    assert answer.ok, answer.text
    stored = operator.get(one_agent)
    assert stored is not None
    assert (stored["metadata"]["finalizers"], stored["status"]["observedGeneration"]) == (["skykoi.io/instance"], 1)


def test_the_operator_cannot_write_spec(admin: Api, operator: Api, one_agent: str) -> None:
    change = {"spec": {"power": "Suspended"}}

    def refused() -> bool:
        answer = operator.call("PATCH", one_agent, change)
        if answer.ok:
            # It came before the policy; a second one would change nothing, and nothing is refused of that.
            assert admin.call("PATCH", one_agent, {"spec": {"power": "Running"}}).ok
        return "the operator never writes spec" in answer.text

    eventually("the policy for specs", refused)
    assert operator.call("PATCH", one_agent, change).status_code == 422
    assert admin.call("PATCH", one_agent, change).ok


def test_the_operator_writes_nothing_else_of_an_agent(admin: Api, operator: Api, one_agent: str) -> None:
    """With an owner that is not there the garbage collector would delete it; a removed finalizer would let others' clean-up out."""
    theirs = {"labels": {"team": "a"}, "annotations": {"note": "b"}, "finalizers": ["example.com/theirs"]}
    assert admin.call("PATCH", one_agent, {"metadata": theirs}).ok
    nobody = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "7f0a"}

    def refusal(change: dict) -> tuple[int, str]:
        answer = operator.call("PATCH", one_agent, {"metadata": change})
        said = ("no finalizer but its own", "no labels, annotations or owners")
        return answer.status_code, next((words for words in said if words in answer.text), answer.text[:80])

    # One that comes before the policy changes something, and the next one is about something else.
    others = (f"x{number}" for number in itertools.count())
    eventually("the policy", lambda: refusal({"labels": {"team": next(others)}})[0] == 422)
    assert [
        refusal({"labels": {"team": None}}),
        refusal({"annotations": {"skykoi.io/paused": "true"}}),
        refusal({"ownerReferences": [nobody]}),
        refusal({"finalizers": []}),
        refusal({"finalizers": ["example.com/theirs", "example.com/more"]}),
    ] == [(422, "no labels, annotations or owners")] * 3 + [(422, "no finalizer but its own")] * 2
    for finalizers in (["example.com/theirs", "skykoi.io/instance"], ["example.com/theirs"]):
        answer = operator.call("PATCH", one_agent, {"metadata": {"finalizers": finalizers}})
        assert answer.ok, answer.text


def test_the_operator_writes_its_own_secrets_only(admin: Api, operator: Api) -> None:
    secrets, own = f"/api/v1/namespaces/{TEAM}/secrets", f"/api/v1/namespaces/{NAMESPACE}/secrets"
    admin.create(secrets, secret("foreign"))
    probe = (f"{secrets}?dryRun=All", secret("other"))
    eventually(
        "the policy for Secrets", lambda: "the operator writes no Secret but" in operator.call("POST", *probe).text
    )
    codes = {
        "an agent's": operator.call("POST", secrets, secret_of("one")).status_code,
        "an agent's again": operator.call(
            "PATCH", f"{secrets}/one-gateway", {"stringData": {"token": "y"}}
        ).status_code,
        "an agent's by its label alone": operator.call(
            "POST", secrets, secret("two-gateway", **{"skykoi.io/agent": "two"})
        ).status_code,
        "an agent's under another name": operator.call(
            "POST", secrets, {**secret_of("two"), "metadata": secret_of("two")["metadata"] | {"name": "database"}}
        ).status_code,
        "an agent's that would be no longer": operator.call(
            "PATCH", f"{secrets}/one-gateway", {"metadata": {"labels": {"skykoi.io/agent": None}}}
        ).status_code,
        "its own": operator.call("POST", own, secret("koi-operator-device")).status_code,
        "its own name elsewhere": operator.call("POST", secrets, secret("koi-operator-device")).status_code,
        "unlabelled": operator.call("POST", secrets, secret("other")).status_code,
        "foreign": operator.call("PATCH", f"{secrets}/foreign", {"stringData": {"token": "y"}}).status_code,
        "foreign, labelled by the way": operator.call(
            "PATCH",
            f"{secrets}/foreign",
            {"metadata": {"labels": {"skykoi.io/agent": "one"}}, "stringData": {"token": "y"}},
        ).status_code,
    }
    assert codes == {
        "an agent's": 201,
        "an agent's again": 200,
        "an agent's by its label alone": 422,
        "an agent's under another name": 422,
        "an agent's that would be no longer": 422,
        "its own": 201,
        "its own name elsewhere": 422,
        "unlabelled": 422,
        "foreign": 422,
        "foreign, labelled by the way": 422,
    }


def test_the_operator_cannot_ask_for_the_token_of_another_account(admin: Api, operator: Api) -> None:
    """A Secret of that type is filled by the controller manager with the token of the account that it names."""
    secrets = f"/api/v1/namespaces/{TEAM}/secrets"
    eventually(
        "the policy for Secrets",
        lambda: "of another type" in operator.call("POST", f"{secrets}?dryRun=All", secret_of("b", type="x/y")).text,
    )
    lure = secret_of("three", type="kubernetes.io/service-account-token")
    lure["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "default"}
    del lure["stringData"]
    answer = operator.call("POST", secrets, lure)
    assert answer.status_code == 422 and "of another type than Opaque" in answer.text, answer.text


# what people may do


def binding(kind: str, role: str, user: str) -> dict:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def test_plans_are_for_admins_of_the_cluster(admin: Api) -> None:
    for role in ("view", "edit", "admin"):
        admin.create(f"{RBAC}/clusterrolebindings", binding("ClusterRoleBinding", role, f"everywhere-{role}"))

    def verbs(role: str) -> list[str]:
        asked = ("get", "create", "patch", "delete")
        return [
            verb
            for verb in asked
            if admin.may(verb, attributes("skykoi.io", "koiplans", "", "any"), f"everywhere-{role}")
        ]

    eventually("the rights of admin", lambda: len(verbs("admin")) == 4)
    assert [verbs("view"), verbs("edit")] == [["get"], ["get"]]


@pytest.mark.parametrize(
    ("role", "aggregates", "allowed", "forbidden"),
    [
        ("koi-viewer", "view", [("get", "koiagents"), ("list", "koiagents"), ("get", "koiagents/status")],
         [("create", "koiagents"), ("patch", "koiagents"), ("delete", "koiagents")]),
        ("koi-editor", "edit", [("create", "koiagents"), ("patch", "koiagents"), ("delete", "koiagents")],
         [("deletecollection", "koiagents"), ("patch", "koiagents/status"), ("patch", "koiplans")]),
        ("koi-admin", "admin", [("create", "koiagents"), ("deletecollection", "koiagents"), ("update", "koiagents")],
         [("patch", "koiagents/status"), ("patch", "koiplans/status")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("aggregated", [False, True], ids=["itself", "through the cluster's role"])
def test_roles_for_people(
    admin: Api, role: str, aggregates: str, allowed: list, forbidden: list, aggregated: bool
) -> None:
    name = aggregates if aggregated else role
    user = f"{name}-user"
    admin.create(f"{RBAC}/namespaces/{TEAM}/rolebindings", binding("RoleBinding", name, user))

    def may(verb: str, resource: str, where: str = TEAM) -> bool:
        return admin.may(verb, attributes("skykoi.io", resource, where, ""), user)

    eventually(f"the rights of {name}", lambda: may(*allowed[0]))
    assert [row for row in allowed if not may(*row)] + [row for row in forbidden if may(*row)] == []
    # A binding in one namespace gives nothing elsewhere, and nothing that is cluster-scoped.
    assert [may("get", "koiagents", "default"), may("list", "koiplans", "")] == [False, False]


# one namespace, everything turned on, upgrade, uninstall, again


def test_life_of_a_full_release(admin: Api, plane: ControlPlane) -> None:
    where = "koi-full"
    full = ("full", str(CHART), "--namespace", where, "--values", values_file("full"))
    for name in (where, "agents"):
        admin.create("/api/v1/namespaces", namespace(name))
    admin.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", SERVICE_MONITOR)
    eventually("the kind ServiceMonitor", lambda: admin.get("/apis/monitoring.coreos.com/v1") is not None)

    helm("install", *full, kubeconfig=plane.kubeconfig)
    rendered = objects(helm("get", "manifest", "full", "--namespace", where, kubeconfig=plane.kubeconfig).stdout)
    assert sorted(kind for kind, _ in rendered) == FULL_KINDS
    reads = {
        place: admin.may(
            "get", attributes("", "secrets", place, "any"), f"system:serviceaccount:{where}:koi-full-account"
        )
        for place in ("agents", TEAM, "kube-system", where)
    }
    assert reads == {"agents": True, TEAM: False, "kube-system": False, where: False}

    helm("upgrade", *full, "--set", "replicaCount=0", kubeconfig=plane.kubeconfig)
    deployment = admin.get(f"/apis/apps/v1/namespaces/{where}/deployments/koi-full")
    assert deployment is not None
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (0, {"type": "Recreate"})

    living = "/apis/skykoi.io/v1alpha1/namespaces/agents/koiagents"
    admin.create(living, agent("survivor"))
    admin.create(f"/api/v1/namespaces/{where}/secrets", secret("koi-operator-device"))
    helm("uninstall", "full", "--namespace", where, kubeconfig=plane.kubeconfig)
    left = {
        "agent": admin.get(f"{living}/survivor") is not None,
        "plan": admin.get(f"{PLANS}/everyone") is not None,
        "device key": admin.get(f"/api/v1/namespaces/{where}/secrets/koi-operator-device") is not None,
        "deployment": admin.get(f"/apis/apps/v1/namespaces/{where}/deployments/koi-full") is not None,
        "role": admin.get(f"{RBAC}/clusterroles/{where}:koi-full") is not None,
        "role of agents": admin.get(f"{RBAC}/namespaces/agents/roles/koi-full-agents") is not None,
    }
    assert left == {key: key in ("agent", "plan", "device key") for key in left}

    helm("install", *full, kubeconfig=plane.kubeconfig)
    helm("uninstall", "full", "--namespace", where, kubeconfig=plane.kubeconfig)


FULL_KINDS = [
    "ClusterRole",
    "ClusterRoleBinding",
    "Deployment",
    "KoiPlan",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Role",
    "Role",
    "RoleBinding",
    "RoleBinding",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicyBinding",
]

SERVICE_MONITOR = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "names": {"kind": "ServiceMonitor", "plural": "servicemonitors"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
