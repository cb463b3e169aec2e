//! Whose task groups are: a group belongs to the owner of its first tasks.

use std::{collections::HashMap, sync::Arc};

use funcx_core::contract::{Principal, TaskQuery};
use funcx_core::model::{IdentityId, TaskGroupId};
use funcx_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::submit::random_bits;
use super::{Answer, Refusal, Service};

/// Groups whose first tasks are being accepted: who submits them, and how many requests do.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<TaskGroupId, (IdentityId, usize)>>);

/// Keeps a group from others until its first tasks have been accepted or refused.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    group: TaskGroupId,
}

impl Claims {
    /// Claims a group, unless somebody else has claimed it.
    fn claim(self: &Arc<Self>, group: TaskGroupId, identity: IdentityId) -> Option<Claim> {
        let mut claims = self.0.lock();
        let (owner, requests) = claims.entry(group).or_insert((identity, 0));
        if *owner != identity {
            return None;
        }
        *requests += 1;
        Some(Claim { claims: Arc::clone(self), group })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.0.lock();
        if let Some((_, requests)) = claims.get_mut(&self.group) {
            *requests -= 1;
            if *requests == 0 {
                claims.remove(&self.group);
            }
        }
    }
}

impl Service {
    /// The group that was asked for, if it is the caller's or nobody's; else a new one. One that has no tasks yet comes
    /// with a claim, to be kept until it has some or will not get them.
    pub(super) async fn group_of(
        &self,
        principal: &Principal,
        asked: Option<TaskGroupId>,
    ) -> Answer<(TaskGroupId, Option<Claim>)> {
        // Nobody else can know a new one.
        let Some(group) = asked else { return Ok((TaskGroupId::from_random(random_bits()?), None)) };
        let foreign = || foreign_group(group, "submit tasks");
        match self.group_owner(group).await? {
            Some(owner) if owner != principal.identity => return Err(foreign()),
            Some(_) => return Ok((group, None)),
            None => {}
        }
        let claim = self.claims.claim(group, principal.identity).ok_or_else(foreign)?;
        // Somebody else may have submitted its first tasks between the look and the claim.
        match self.group_owner(group).await? {
            Some(owner) if owner != principal.identity => Err(foreign()),
            _ => Ok((group, Some(claim))),
        }
    }

    /// Whose group this is, if it has tasks.
    pub(super) async fn group_owner(&self, group: TaskGroupId) -> Result<Option<IdentityId>> {
        let version = match self.groups.find(group) {
            Ok(owner) => return Ok(Some(owner)),
            Err(version) => version,
        };
        let (ids, _) = self.store.task_ids(TaskQuery::Group(group), None, 1).await?;
        let task = self.store.tasks(&ids).await?.into_iter().flatten().next();
        let owner = task.map(|task| task.spec.owner);
        if let Some(owner) = owner {
            self.groups.remember(version, group, owner, 1);
        }
        Ok(owner)
    }
}

pub(super) fn foreign_group(group: TaskGroupId, operation: &'static str) -> Refusal {
    let error = Error::new(ErrorKind::Forbidden, operation, "the task group belongs to somebody else")
        .with_context("task group", group);
    Refusal::new("TASK_GROUP_ACCESS_FORBIDDEN", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_others_out_until_all_requests_of_its_owner_are_over() {
        let (group, alice, bob) =
            (TaskGroupId::from_u128(1), IdentityId::from_u128(2), IdentityId::from_u128(3));
        let claims = Arc::new(Claims::default());
        let (first, second) = (claims.claim(group, alice).unwrap(), claims.claim(group, alice).unwrap());
        drop(first);
        assert!(claims.claim(group, bob).is_none());
        drop(second);
        assert!(claims.claim(group, bob).is_some());
        assert!(claims.0.lock().is_empty());
    }
}
