//! Apply: one call of the model for each step, and the notes that the controller takes of the answers.

use std::collections::BTreeMap;

use koi_core::api::LaunchStatus;
use koi_core::desired::Desired;
use koi_core::fleet::Group;
use koi_core::names;
use koi_core::observed::{Identity, InstanceState, Pushed};
use koi_core::plan::Step;
use koi_core::refusal::classify;
use koi_core::rotation::Rotation;
use koi_core::status;
use koi_sim::{Refused, Wanted};

use super::cluster::CLUSTER;
use super::observe::{OWNER, bundle_text, probe};
use super::operator::{Decision, Round};

/// Done, somebody else was first, or the cloud's code and message.
pub(crate) type Effect = Result<bool, (String, String)>;

fn told(refused: Refused) -> (String, String) {
    (refused.code.to_owned(), refused.message)
}

impl Round<'_> {
    pub(crate) fn perform(&mut self, step: &Step, desired: &Desired, decision: &Decision) -> Effect {
        self.check_step(step, desired, decision);
        match step {
            Step::AddFinalizer => self.finalizer(true),
            Step::RemoveFinalizer => self.finalizer(false),
            Step::CreateSecret => {
                if self.object.secret.is_none() {
                    self.object.make_secret();
                    self.object.writes += 1;
                }
                Ok(true)
            }
            Step::RecordLaunch { launch, place } => {
                let status = status::with_launch(&self.report_of(decision), launch, place);
                let written = self.write_status(status, true);
                if written {
                    self.operator.memory(self.index).launches.recorded(launch);
                }
                Ok(written)
            }
            Step::RecordRemedy { repair, .. } => {
                let status = status::with_remedy(&self.report_of(decision), repair);
                Ok(self.write_status(status, true))
            }
            Step::RunInstances { .. } => self.launch(step),
            Step::TryLaunch { launch } => self.try_launch(launch),
            Step::PutBundle { .. } => self.put_bundle(step, desired),
            Step::DeleteBundle { instance_id } => self.delete_bundle(instance_id),
            Step::Abandon { .. } => Ok(true),
            Step::TellGateway { .. } => {
                status::note_grown(&mut self.status, &decision.observed);
                Ok(true)
            }
            Step::PushConfig { instance_id } => Ok(self.push_config(desired, instance_id)),
            Step::SeedWorkspace { .. } => {
                status::note_seeded(&mut self.status, self.now);
                Ok(true)
            }
            Step::Rotate { rotation, instance_id } => Ok(self.rotate(rotation, instance_id)),
            Step::FetchConsole { instance_id } => {
                let console = Some((instance_id.clone(), "koi-userdata: step=binary".to_owned(), self.now));
                self.operator.memory(self.index).console = console;
                Ok(true)
            }
            Step::BindCluster => self.bind(),
            Step::CreateSecurityGroup { .. } | Step::AuthorizeIngress { .. } | Step::RevokeIngress { .. } => {
                self.group_step(step)
            }
            Step::CreateRole { .. }
            | Step::PutRolePolicy { .. }
            | Step::CreateInstanceProfile { .. }
            | Step::AddRoleToInstanceProfile { .. }
            | Step::RemoveRoleFromInstanceProfile { .. }
            | Step::DeleteInstanceProfile { .. }
            | Step::DeleteRolePolicy { .. }
            | Step::DeleteRole { .. } => self.identity_step(step),
            other => self.machine_step(other),
        }
    }

    fn bind(&mut self) -> Effect {
        let name = names::owner_parameter(CLUSTER);
        let written = self.account.put_parameter(&name, OWNER, &BTreeMap::new(), false);
        self.operator.owner = None;
        match written {
            Err(refused) if refused.code != "ParameterAlreadyExists" => Err(told(refused)),
            _ => Ok(true),
        }
    }

    fn finalizer(&mut self, on: bool) -> Effect {
        if on && self.object.going() {
            // The API server takes no new finalizer of an object that goes.
            return Ok(false);
        }
        self.object.finalizer = on;
        self.object.exists &= on;
        self.object.bump();
        self.object.writes += 1;
        self.wrote();
        Ok(true)
    }

    /// A new token counts once the gateway was seen to take it.
    fn rotate(&mut self, rotation: &Rotation, instance_id: &str) -> bool {
        let asks = matches!(rotation, Rotation::Promote | Rotation::Retire);
        let machine = self
            .account
            .machine_of(instance_id)
            .map(|machine| machine.instance.clone());
        let answers = machine.is_some_and(|instance| {
            let asked = probe(self.account, self.object, &instance, self.now);
            asked.outcome.is_ok()
        });
        (answers || !asks) && self.object.rotate(rotation, self.now)
    }

    /// A gateway that answers takes the config; false: it does not answer.
    fn push_config(&mut self, desired: &Desired, instance_id: &str) -> bool {
        let Desired::Present(agent) = desired else { return true };
        let machine = self
            .account
            .machine_of(instance_id)
            .map(|machine| machine.instance.clone());
        let answers =
            machine.is_some_and(|instance| probe(self.account, self.object, &instance, self.now).outcome.is_ok());
        if answers {
            self.object.config_edited = None;
            self.operator.memory(self.index).pushed = Some(Pushed {
                at: self.now,
                instance_id: instance_id.to_owned(),
                sha256: agent.config_sha256.clone(),
            });
        }
        answers
    }

    fn try_launch(&mut self, launch: &LaunchStatus) -> Effect {
        self.account.try_launch(&Wanted::from(launch)).map_err(told)?;
        self.operator.memory(self.index).tried_launch = Some(Box::new(launch.clone()));
        Ok(true)
    }

    fn launch(&mut self, step: &Step) -> Effect {
        let Step::RunInstances { launch } = step else {
            return Ok(true);
        };
        let memory = self.operator.memory(self.index);
        let before = memory.launches.clone();
        memory.launches.calling(launch, self.now);
        match self.account.run_instances(&Wanted::from(launch.as_ref())) {
            Ok(instance) => {
                status::note_instance(&mut self.status, &instance, self.now);
                let uid = self.object.uid();
                self.operator.index.note_launched(&uid, &instance, self.now);
                Ok(true)
            }
            Err(refused) => {
                let definite = classify("RunInstances", refused.code, &refused.message).definite;
                if definite {
                    self.operator.memory(self.index).launches.refused(before);
                }
                if refused.code == "InvalidGroup.NotFound" {
                    self.operator.next_sweep = self.now;
                }
                Err(told(refused))
            }
        }
    }

    fn delete_bundle(&mut self, instance_id: &str) -> Effect {
        let name = names::bundle_parameter(CLUSTER, &self.object.uid(), instance_id);
        let deleted = gone_is_done(self.account.delete_parameter(&name));
        if deleted.is_ok() {
            let memory = self.operator.memory(self.index);
            memory.bundles_deleted.insert(instance_id.to_owned());
        }
        deleted
    }

    fn put_bundle(&mut self, step: &Step, desired: &Desired) -> Effect {
        let Step::PutBundle {
            instance_id,
            volume_id,
            overwrite,
        } = step
        else {
            return Ok(true);
        };
        self.operator.memory(self.index).bundles_deleted.remove(instance_id);
        let (Desired::Present(agent), Some(secret)) = (desired, &self.object.secret) else {
            return Ok(false);
        };
        let text = bundle_text(secret, volume_id, &agent.config_sha256);
        let name = names::bundle_parameter(CLUSTER, &self.object.uid(), instance_id);
        let tags = [(names::TAG_INSTANCE_ID.to_owned(), instance_id.clone())].into();
        let empty = BTreeMap::new();
        let tags = if *overwrite { &empty } else { &tags };
        let mut written = self.account.put_parameter(&name, &text, tags, *overwrite);
        if written
            .as_ref()
            .is_err_and(|refused| refused.code == "ParameterAlreadyExists")
        {
            written = self.account.put_parameter(&name, &text, &empty, true);
        }
        written.map_err(told)?;
        status::note_bundle(&mut self.status, instance_id, &text);
        let uid = self.object.uid();
        self.operator.index.note_bundle(&uid, self.now);
        Ok(true)
    }

    fn group_step(&mut self, step: &Step) -> Effect {
        let (index, now) = (&mut self.operator.index, self.now);
        let (group_id, done) = match step {
            Step::CreateSecurityGroup { name, vpc_id, tags } => {
                match self.account.create_group(name, vpc_id, tags) {
                    Err(refused) if refused.code != "InvalidGroup.Duplicate" => return Err(told(refused)),
                    _ => {}
                }
                let found = self.account.group(vpc_id, name).unwrap();
                let group = Group {
                    name: name.clone(),
                    vpc_id: vpc_id.clone(),
                    facts: found.facts(CLUSTER),
                    tags: found.tags.clone(),
                };
                index.note_group(group, now);
                return Ok(true);
            }
            Step::AuthorizeIngress { group_id, rules } => {
                let done = self.account.authorize(group_id, rules);
                if done.is_ok() {
                    index.note_rules(group_id, rules, &[], now);
                }
                (group_id, done)
            }
            Step::RevokeIngress { group_id, rules } => {
                let done = self.account.revoke(group_id, rules);
                if done.is_ok() {
                    index.note_rules(group_id, &[], rules, now);
                }
                (group_id, done)
            }
            _ => return Ok(true),
        };
        // The adapter takes rules that are there, or gone, already for success.
        match done {
            Err(refused) if refused.code.starts_with("InvalidPermission") => {
                self.operator.next_sweep = now;
                Ok(true)
            }
            Err(refused) => {
                if refused.code == "InvalidGroup.NotFound" && !step.misses_source(refused.code, &refused.message) {
                    index.note_missing_group(group_id, now);
                }
                Err(told(refused))
            }
            Ok(()) => Ok(true),
        }
    }

    fn identity_step(&mut self, step: &Step) -> Effect {
        let account = &mut *self.account;
        let (name, done) = match step {
            Step::CreateRole { role, tags, .. } => (role, account.create_role(role, tags)),
            Step::PutRolePolicy { role, document } => (role, account.put_role_policy(role, document)),
            Step::CreateInstanceProfile { profile, tags } => (profile, account.create_profile(profile, tags)),
            Step::AddRoleToInstanceProfile { profile, role } => (profile, account.add_role(profile, role)),
            Step::RemoveRoleFromInstanceProfile { profile, role } => {
                (profile, absent_is_done(account.remove_role(profile, role)))
            }
            Step::DeleteInstanceProfile { profile } => (profile, absent_is_done(account.delete_profile(profile))),
            Step::DeleteRolePolicy { role } => (role, absent_is_done(account.delete_role_policy(role))),
            Step::DeleteRole { role } => (role, absent_is_done(account.delete_role(role))),
            _ => return Ok(true),
        };
        match &done {
            Ok(()) => {
                let mut identity = self.identity(name);
                note_identity(&mut identity, step);
                identity.changed_at = Some(self.now);
                let until = self.now.saturating_add(jiff::SignedDuration::from_secs(900)).unwrap();
                self.operator.identities.insert(name.clone(), (identity, until));
            }
            Err(_) => drop(self.operator.identities.remove(name)),
        }
        done.map(|()| true).map_err(told)
    }

    fn machine_step(&mut self, step: &Step) -> Effect {
        let (account, index, now, uid) = (
            &mut *self.account,
            &mut self.operator.index,
            self.now,
            self.object.uid(),
        );
        match step {
            Step::StartInstance { instance_id: id } => {
                account.start_instance(id).map_err(told)?;
                index.note_state(&uid, id, InstanceState::Pending, now);
            }
            Step::StopInstance { instance_id: id } => {
                account.stop_instance(id).map_err(told)?;
                index.note_state(&uid, id, InstanceState::Stopping, now);
            }
            Step::StopOrphan { instance_id: id } => {
                let mark = [(names::TAG_ORPHAN.to_owned(), "true".to_owned())].into();
                account.create_tags(id, &mark).map_err(told)?;
                account.stop_instance(id).map_err(told)?;
                index.note_state(&uid, id, InstanceState::Stopping, now);
            }
            Step::TerminateInstance { instance_id: id } => {
                gone_is_done(account.terminate_instance(id))?;
                index.note_state(&uid, id, InstanceState::ShuttingDown, now);
            }
            Step::SetSecurityGroups { instance_id, group_ids } => {
                account.set_groups(instance_id, group_ids).map_err(told)?;
                index.note_groups(&uid, instance_id, group_ids, now);
            }
            Step::SetInstanceType {
                instance_id,
                instance_type,
            }
            | Step::RestoreInstanceType {
                instance_id,
                instance_type,
                ..
            } => {
                account.set_type(instance_id, instance_type).map_err(told)?;
                index.note_type(&uid, instance_id, instance_type, now);
            }
            Step::AttachVolume { volume_id, instance_id } => {
                account.attach_volume(volume_id, instance_id).map_err(told)?;
                index.note_attached(&uid, volume_id, instance_id, now);
            }
            Step::DeleteVolume { volume_id, .. } => {
                gone_is_done(account.delete_volume(volume_id))?;
                index.note_deleted_volume(&uid, volume_id, now);
                self.operator.memory(self.index).volume_deleted = Some(volume_id.clone());
            }
            Step::CreateSnapshot { volume_id, tags } => drop(account.create_snapshot(volume_id, tags).map_err(told)?),
            other => return self.mend_step(other),
        }
        Ok(true)
    }

    /// What puts a live instance or its volume right.
    fn mend_step(&mut self, step: &Step) -> Effect {
        let (account, index, now, uid) = (
            &mut *self.account,
            &mut self.operator.index,
            self.now,
            self.object.uid(),
        );
        match step {
            Step::RebootInstance { instance_id } => {
                account.reboot_instance(instance_id).map_err(told)?;
                status::note_rebooted(&mut self.status, now);
            }
            Step::AssociateProfile { instance_id, profile } => {
                account.set_profile(instance_id, profile).map_err(told)?;
                index.note_profile(&uid, instance_id, profile, now);
            }
            Step::RestoreTags { id, tags } => {
                account.create_tags(id, tags).map_err(told)?;
                index.note_tags(&uid, id, tags, now);
            }
            Step::GrowVolume { volume_id, size_gib } => {
                account.grow_volume(volume_id, *size_gib).map_err(told)?;
                index.note_size(&uid, volume_id, *size_gib, now);
            }
            other => panic!("the simulation does not know {other:?}"),
        }
        Ok(true)
    }

    /// What it did is unknown: the cloud is asked before anything is concluded.
    pub(crate) fn refused(&mut self, step: &Step, code: &str, message: &str) {
        self.told.push(format!(
            "agent {}: {} refused: {code:?} {message}",
            self.index,
            step.name()
        ));
        let refusal = classify(step.name(), code, message);
        if !refusal.definite {
            let uid = self.object.uid();
            self.operator.index.want_fresh(&uid);
            self.operator.next_sweep = self.now;
        }
        let now = self.now;
        self.operator.memory(self.index).refuse(step, refusal, now);
    }
}

fn gone_is_done(done: Result<(), Refused>) -> Effect {
    match done {
        Err(refused) if !refused.code.ends_with("NotFound") => Err(told(refused)),
        _ => Ok(true),
    }
}

fn absent_is_done(done: Result<(), Refused>) -> Result<(), Refused> {
    done.or_else(|refused| {
        if refused.code == "NoSuchEntity" {
            Ok(())
        } else {
            Err(refused)
        }
    })
}

fn note_identity(identity: &mut Identity, step: &Step) {
    match step {
        Step::CreateRole { .. } => identity.role_exists = true,
        Step::PutRolePolicy { .. } => (identity.policy_current, identity.has_policy) = (true, true),
        Step::CreateInstanceProfile { .. } => identity.profile_arn = Some("made just now".into()),
        Step::AddRoleToInstanceProfile { .. } => identity.role_in_profile = true,
        Step::RemoveRoleFromInstanceProfile { .. } => (identity.role_in_profile, identity.other_role) = (false, None),
        Step::DeleteInstanceProfile { .. } => identity.profile_arn = None,
        Step::DeleteRolePolicy { .. } => (identity.policy_current, identity.has_policy) = (false, false),
        Step::DeleteRole { .. } => identity.role_exists = false,
        _ => {}
    }
}
