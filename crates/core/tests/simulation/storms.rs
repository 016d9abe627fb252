//! Storms that last longer than a test may: the virtual time of the simulation makes minutes of them.

use jiff::{SignedDuration, Timestamp};

use koi_sim::Sight;

use super::cluster::CLUSTER;
use super::schedule::Schedule;
use super::until;
use super::world::World;

const STORM: SignedDuration = SignedDuration::from_mins(10);
/// Pauses between tries grow no longer than this.
const AFTERWARDS: SignedDuration = SignedDuration::from_mins(4);

fn begun(agents: usize) -> World {
    let mut world = World::new(&Schedule::quiet(agents));
    world.create(0);
    world
}

fn last(world: &mut World, span: SignedDuration) -> Timestamp {
    let end = world.home.now().saturating_add(span).unwrap();
    while world.home.now() < end {
        world.round();
    }
    end
}

/// Ids of instances with the claim of our installation.
fn ours(world: &World) -> Vec<String> {
    let instances = world.home.instances(CLUSTER, &[], &Sight::default());
    instances.into_iter().map(|instance| instance.id).collect()
}

fn tries(world: &World, action: &str) -> usize {
    world.home.log().iter().filter(|call| call.action == action).count()
}

#[test]
fn ten_minutes_without_capacity_cost_few_tries_and_end_well() {
    const AGENTS: usize = 5;
    let mut world = begun(AGENTS);
    let zones = world.home.subnets.iter().map(|subnet| subnet.zone.clone());
    world.home.full_zones = zones.collect();
    let end = last(&mut world, STORM);
    let during = tries(&world, "RunInstances");
    assert!(during >= AGENTS, "{during}");
    assert!(
        during <= 12 * AGENTS,
        "{during} tries of {AGENTS} agents in ten minutes\n{}",
        world.trace()
    );
    world.home.full_zones.clear();
    until(&mut world, "settled", World::settled);
    world.check_settled();
    let took = world.home.now().duration_since(end);
    assert!(took <= AFTERWARDS, "{took:#}\n{}", world.trace());
    assert_eq!(ours(&world).len(), AGENTS);
}

#[test]
fn a_stopped_fleet_without_capacity_waits_with_few_tries() {
    const AGENTS: usize = 3;
    let mut world = begun(AGENTS);
    until(&mut world, "settled", World::settled);
    let zones = world.home.subnets.iter().map(|subnet| subnet.zone.clone());
    world.home.full_zones = zones.collect();
    let ids = ours(&world);
    for id in &ids {
        world.home.somebody_stops(id);
    }
    last(&mut world, STORM);
    let during = tries(&world, "StartInstances");
    assert!(
        (AGENTS..=12 * AGENTS).contains(&during),
        "{during} tries\n{}",
        world.trace()
    );
    world.home.full_zones.clear();
    until(&mut world, "settled", World::settled);
    assert_eq!(
        ours(&world),
        ids,
        "started again, not replaced: their data is in this zone"
    );
}
