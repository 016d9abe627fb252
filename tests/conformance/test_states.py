"""Power states, status checks and what they allow."""

from __future__ import annotations

import base64
import datetime

import pytest
from conftest import refused
from world.cloud.client import wait_for


def test_launch_passes_through_pending(launch, frozen):
    pass_time = frozen()
    instance_id = launch()
    assert launch.state(instance_id) == "pending"
    pass_time()
    launch.wait(instance_id, "running")
    assert launch.look(instance_id)["State"] == {"Code": 16, "Name": "running"}


def test_stop_and_start_pass_through_transit_states(launch, ec2, frozen):
    instance_id = launch.running()
    pass_time = frozen()
    change = ec2.stop_instances(InstanceIds=[instance_id])["StoppingInstances"][0]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "stopping")
    assert launch.state(instance_id) == "stopping"
    pass_time()
    launch.wait(instance_id, "stopped")
    assert launch.look(instance_id)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    change = ec2.start_instances(InstanceIds=[instance_id])["StartingInstances"][0]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("stopped", "pending")
    pass_time()
    launch.wait(instance_id, "running")
    assert "StateReason" not in launch.look(instance_id)


def test_repeated_power_calls_are_harmless(launch, ec2, frozen, world):
    instance_id = launch.running()
    pass_time = frozen()
    assert ec2.start_instances(InstanceIds=[instance_id])["StartingInstances"][0]["CurrentState"]["Name"] == "running"
    ec2.stop_instances(InstanceIds=[instance_id])
    assert ec2.stop_instances(InstanceIds=[instance_id])["StoppingInstances"][0]["CurrentState"]["Name"] == "stopping"
    pass_time()
    launch.wait(instance_id, "stopped")
    world.settings(transit=0.1)
    launch.gone(instance_id)
    again = ec2.terminate_instances(InstanceIds=[instance_id])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == "terminated"


def test_power_calls_in_wrong_states(launch, ec2, frozen, world):
    pass_time = frozen()
    pending = launch()
    with refused("IncorrectInstanceState", 400):
        ec2.stop_instances(InstanceIds=[pending])
    with refused("IncorrectInstanceState"):
        ec2.reboot_instances(InstanceIds=[pending])
    pass_time()
    launch.wait(pending, "running")
    ec2.stop_instances(InstanceIds=[pending])
    with refused("IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[pending])
    pass_time()
    world.settings(transit=0.1)
    launch.gone(pending)
    with refused("IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[pending])
    with refused("IncorrectInstanceState"):
        ec2.stop_instances(InstanceIds=[pending])


def test_one_bad_instance_stops_nothing(launch, ec2, frozen):
    good = launch.running()
    frozen()
    bad = launch()
    with refused("IncorrectInstanceState"):
        ec2.stop_instances(InstanceIds=[good, bad])
    assert launch.state(good) == "running"


def test_terminated_is_bare_and_vanishes(launch, ec2, world):
    instance_id = launch.running()
    launch.gone(instance_id)
    seen = launch.look(instance_id)
    assert "PrivateIpAddress" not in seen and "PublicIpAddress" not in seen
    assert (seen["NetworkInterfaces"], seen["SecurityGroups"], seen["BlockDeviceMappings"]) == ([], [], [])
    world.advance_clock(3601)
    with refused("InvalidInstanceID.NotFound"):
        launch.look(instance_id)


def test_terminate_while_pending(launch, frozen):
    pass_time = frozen()
    instance_id = launch()
    launch.client.terminate_instances(InstanceIds=[instance_id])
    assert launch.state(instance_id) == "shutting-down"
    pass_time()
    launch.wait(instance_id, "terminated")


def test_public_address_goes_at_stop_and_is_new_at_start(launch, ec2):
    instance_id = launch.running()
    first = launch.look(instance_id)
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    assert "PublicIpAddress" not in launch.look(instance_id)
    ec2.start_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "running")
    second = launch.look(instance_id)
    assert second["PrivateIpAddress"] == first["PrivateIpAddress"]
    assert second["PublicIpAddress"] != first["PublicIpAddress"]
    assert second["LaunchTime"] >= first["LaunchTime"]


def test_no_public_address_when_not_wanted(launch, subnets):
    nic = {"DeviceIndex": 0, "SubnetId": subnets[0]["SubnetId"], "AssociatePublicIpAddress": False}
    assert "PublicIpAddress" not in launch.look(launch.running(NetworkInterfaces=[nic]))


def _status(ec2, instance_id, **more):
    found = ec2.describe_instance_status(InstanceIds=[instance_id], **more)["InstanceStatuses"]
    return (found[0]["InstanceStatus"]["Status"], found[0]["SystemStatus"]["Status"]) if found else None


def test_status_checks(launch, ec2, world):
    world.settings(status_checks=600)
    instance_id = launch.running()
    assert _status(ec2, instance_id) == ("initializing", "initializing")
    world.advance_clock(601)
    wait_for("checks pass", lambda: _status(ec2, instance_id) == ("ok", "ok"))
    world.impair(instance_id, "system")
    assert _status(ec2, instance_id) == ("ok", "impaired")
    world.impair(instance_id, "instance")
    assert _status(ec2, instance_id) == ("impaired", "impaired")
    world.recover(instance_id)
    assert _status(ec2, instance_id) == ("ok", "ok")
    ec2.stop_instances(InstanceIds=[instance_id])
    assert _status(ec2, instance_id) is None
    assert _status(ec2, instance_id, IncludeAllInstances=True) == ("not-applicable", "not-applicable")


def test_a_retirement_ends_with_stop_and_start(launch, ec2, world):
    instance_id = launch.running()
    world.schedule_event(instance_id, "instance-retirement")
    ec2.reboot_instances(InstanceIds=[instance_id])
    (status,) = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    assert [event["Code"] for event in status["Events"]] == ["instance-retirement"]
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    ec2.start_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "running")
    (status,) = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
    assert status.get("Events", []) == []


def test_a_check_tells_since_when_it_fails(launch, ec2, world):
    world.settings(status_checks=0)
    instance_id = launch.running()

    def detail() -> dict:
        (status,) = ec2.describe_instance_status(InstanceIds=[instance_id])["InstanceStatuses"]
        (found,) = status["SystemStatus"]["Details"]
        return found

    world.impair(instance_id, "system", ago=300)
    earlier = detail()
    world.impair(instance_id, "system")
    # Held against each other: tests advance the world's clock.
    ago = detail()["ImpairedSince"] - earlier["ImpairedSince"]
    assert earlier["Name"] == "reachability" and earlier["Status"] == "failed"
    assert datetime.timedelta(seconds=299) <= ago < datetime.timedelta(seconds=330)


def test_a_reboot_mends_the_guest_and_not_the_host(launch, ec2, world):
    world.settings(status_checks=0)
    instance_id = launch.running()
    world.impair(instance_id, "system")
    world.impair(instance_id, "instance")
    ec2.reboot_instances(InstanceIds=[instance_id])
    assert _status(ec2, instance_id) == ("ok", "impaired")


def test_impairment_ends_with_stop_and_start(launch, ec2, world):
    world.settings(status_checks=0)
    instance_id = launch.running()
    world.impair(instance_id, "system")
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    ec2.start_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "running")
    assert _status(ec2, instance_id) == ("ok", "ok")


def test_scheduled_events(launch, ec2, world):
    instance_id = launch.running()
    world.schedule_event(instance_id, "instance-retirement", within=7200)
    filters = [{"Name": "event.code", "Values": ["instance-retirement"]}]
    found = ec2.describe_instance_status(Filters=filters)["InstanceStatuses"]
    assert [(s["InstanceId"], s["Events"][0]["Code"]) for s in found] == [(instance_id, "instance-retirement")]
    world.clear_events(instance_id)
    assert ec2.describe_instance_status(Filters=filters)["InstanceStatuses"] == []


@pytest.mark.parametrize(("behavior", "state"), [("stop", "stopped"), ("terminate", "terminated")])
def test_guest_poweroff(launch, world, behavior, state):
    instance_id = launch.running(InstanceInitiatedShutdownBehavior=behavior)
    world.guest_poweroff(instance_id)
    launch.wait(instance_id, state)
    assert launch.look(instance_id)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_aws_stops_or_loses_an_instance(launch, world):
    stopped, lost = launch.running(), launch.running()
    world.system_stop(stopped)
    world.lose(lost)
    assert launch.look(launch.wait(stopped, "stopped"))["StateReason"]["Code"] == "Server.ScheduledStop"
    assert launch.look(launch.wait(lost, "terminated"))["StateReason"]["Code"] == "Server.InternalError"


def test_an_accepted_launch_can_die(launch, world):
    world.inject("RunInstances", principal="admin", doom=["Server.InsufficientInstanceCapacity", "none left"])
    instance_id = launch()
    launch.wait(instance_id, "terminated")
    assert launch.look(instance_id)["StateReason"]["Code"] == "Server.InsufficientInstanceCapacity"


def test_termination_and_stop_protection(launch, ec2):
    instance_id = launch.running(DisableApiTermination=True)
    with refused("OperationNotPermitted"):
        ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.modify_instance_attribute(InstanceId=instance_id, DisableApiTermination={"Value": False})
    ec2.modify_instance_attribute(InstanceId=instance_id, DisableApiStop={"Value": True})
    with refused("OperationNotPermitted"):
        ec2.stop_instances(InstanceIds=[instance_id])
    launch.gone(instance_id)


def test_type_and_user_data_change_only_when_stopped(launch, ec2):
    instance_id = launch.running(UserData="one")
    with refused("IncorrectInstanceState"):
        ec2.modify_instance_attribute(InstanceId=instance_id, InstanceType={"Value": "t3.medium"})
    with refused("IncorrectInstanceState"):
        ec2.modify_instance_attribute(InstanceId=instance_id, UserData={"Value": b"two"})
    ec2.stop_instances(InstanceIds=[instance_id])
    launch.wait(instance_id, "stopped")
    ec2.modify_instance_attribute(InstanceId=instance_id, InstanceType={"Value": "t3.medium"})
    ec2.modify_instance_attribute(InstanceId=instance_id, UserData={"Value": b"\x1f\x8btwo"})
    encoded = ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(encoded) == b"\x1f\x8btwo"
    assert launch.look(instance_id)["InstanceType"] == "t3.medium"
    with refused("InvalidParameterValue"):
        ec2.modify_instance_attribute(InstanceId=instance_id, UserData={"Value": b"x" * 16385})
    with refused("InvalidParameterValue"):
        ec2.modify_instance_attribute(InstanceId=instance_id, InstanceType={"Value": "t3.gigantic"})


def test_one_attribute_for_each_call(launch, ec2):
    instance_id = launch.stopped()
    with refused("InvalidParameterCombination"):
        ec2.modify_instance_attribute(InstanceId=instance_id)
    with refused("InvalidParameterCombination"):
        ec2.modify_instance_attribute(
            InstanceId=instance_id, InstanceType={"Value": "t3.large"}, DisableApiStop={"Value": True}
        )
    assert launch.look(instance_id)["InstanceType"] == "t3.small"


def test_console_output(launch, ec2):
    instance_id = launch.running()
    answer = ec2.get_console_output(InstanceId=instance_id)
    assert (answer["InstanceId"], answer["Output"]) == (instance_id, f"console of {instance_id}\n")
    assert answer["Timestamp"].tzinfo is not None


def test_metadata_options_change_on_a_running_instance(launch, ec2):
    instance_id = launch.running(MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2})
    ec2.modify_instance_metadata_options(InstanceId=instance_id, HttpPutResponseHopLimit=1)
    options = launch.look(instance_id)["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)
    with refused("InvalidParameterValue"):
        ec2.modify_instance_metadata_options(InstanceId=instance_id, HttpPutResponseHopLimit=65)
