//! Leases of the instances that share one memory store (in tests; in production there is one).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::store::{InstanceInfo, LeaseAcquired, LeaseRenewed, Owner};

/// Known instances, by id.
#[derive(Default)]
pub(super) struct Leases {
    leases: Mutex<BTreeMap<String, Known>>,
}

#[derive(Default)]
struct Known {
    lease: Option<Lease>,
    /// Incarnation that has given it up last.
    given_up: Option<Arc<str>>,
}

struct Lease {
    instance: InstanceInfo,
    expires: Instant,
}

impl Leases {
    pub(super) fn acquire(&self, instance: &InstanceInfo, ttl: Duration) -> LeaseAcquired {
        let mut leases = self.lock();
        match living(&leases, &instance.owner.instance_id) {
            Some(held) if held.owner.incarnation != instance.owner.incarnation => LeaseAcquired::HeldBy(held.clone()),
            _ => {
                write(&mut leases, instance, ttl);
                LeaseAcquired::Acquired
            }
        }
    }

    pub(super) fn renew(&self, instance: &InstanceInfo, ttl: Duration) -> LeaseRenewed {
        let mut leases = self.lock();
        let renewed = match living(&leases, &instance.owner.instance_id) {
            Some(held) if held.owner.incarnation != instance.owner.incarnation => return LeaseRenewed::Lost,
            Some(_) => LeaseRenewed::Renewed,
            None => LeaseRenewed::Reacquired,
        };
        write(&mut leases, instance, ttl);
        renewed
    }

    pub(super) fn release(&self, owner: &Owner) {
        let mut leases = self.lock();
        if living(&leases, &owner.instance_id).is_some_and(|held| held.owner.incarnation == owner.incarnation) {
            let given_up = Some(owner.incarnation.clone());
            leases.insert(owner.instance_id.to_string(), Known { lease: None, given_up });
        }
    }

    pub(super) fn was_given_up_by(&self, owner: &Owner) -> bool {
        let leases = self.lock();
        leases.get(&*owner.instance_id).is_some_and(|known| known.given_up.as_ref() == Some(&owner.incarnation))
    }

    pub(super) fn holder(&self, instance_id: &str) -> Option<InstanceInfo> {
        living(&self.lock(), instance_id).cloned()
    }

    pub(super) fn instances(&self) -> Vec<InstanceInfo> {
        let leases = self.lock();
        leases.keys().filter_map(|id| living(&leases, id).cloned()).collect()
    }

    pub(super) fn left(&self) -> Vec<Duration> {
        let now = Instant::now();
        let leases = self.lock();
        let expiries = leases
            .values()
            .filter_map(|known| known.lease.as_ref())
            .map(|lease| lease.expires.saturating_duration_since(now));
        expiries.filter(|left| !left.is_zero()).collect()
    }

    pub(super) fn known(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// `false` when it has a living lease.
    pub(super) fn forget(&self, instance_id: &str) -> bool {
        let mut leases = self.lock();
        if living(&leases, instance_id).is_some() {
            return false;
        }
        leases.remove(instance_id);
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn living<'a>(leases: &'a BTreeMap<String, Known>, instance_id: &str) -> Option<&'a InstanceInfo> {
    let lease = leases.get(instance_id)?.lease.as_ref()?;
    (lease.expires > Instant::now()).then_some(&lease.instance)
}

fn write(leases: &mut BTreeMap<String, Known>, instance: &InstanceInfo, ttl: Duration) {
    let lease = Lease { instance: instance.clone(), expires: Instant::now() + ttl };
    leases.entry(instance.owner.instance_id.to_string()).or_default().lease = Some(lease);
}
