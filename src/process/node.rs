//! A worker thread of this process, as the surfaces see it ([`Node`]).

use std::{rc::Rc, sync::Arc};

use crate::{
    cluster::{Cluster, Member, host::Host},
    fair,
    gateway::{Gateway, Shared},
    session::env::Env,
};

/// See the module's text. Named by `http`, and by nobody below it.
#[derive(Debug)]
pub struct Node {
    /// What sessions may use of the process.
    pub env: Arc<Env>,
    /// The process among the others.
    pub cluster: Arc<Cluster>,
    /// What is done for clients.
    pub gateway: Rc<Gateway>,
}

impl Node {
    /// Starts the actors of the current thread. `shared`: what the gateways of all threads share; `checks_health`: this thread
    /// looks after the health of the servers.
    pub fn start(cluster: &Arc<Cluster>, shared: &Arc<Shared>, checks_health: bool) -> Rc<Self> {
        fair::start();
        let member = Member::start(cluster, checks_health);
        Host::launch(Rc::clone(&member));
        let gateway = Gateway::new(member, Arc::clone(shared));
        Rc::new(Self { env: Arc::clone(&cluster.env), cluster: Arc::clone(cluster), gateway: Rc::new(gateway) })
    }
}
