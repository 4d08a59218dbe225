//! A whole deployment for one test: redis-server, upstreams, routers, nginx. Each test starts only what it needs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    FaultProxy, Front, Nginx, RedisClient, RedisServer, RouterProcess, UpstreamProcess, mcp_client,
    router_process::Env, upstream_process,
};
use crate::harness::McpClient;

/// Name of the service in the tests.
pub const SERVICE: &str = "mcp-server-v6";

/// Which routers reach Redis through the [`FaultProxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    All,
    Only(usize),
}

/// What to start.
#[derive(Debug)]
pub struct Builder {
    routers: usize,
    upstreams: usize,
    upstream_urls: Vec<String>,
    are_streamable: bool,
    redis: bool,
    redis_proxy: Option<Behind>,
    redis_args: Vec<&'static str>,
    redis_login: Option<&'static str>,
    front: Option<Front>,
    env: Env,
}

impl Builder {
    /// So many routers (1).
    pub fn routers(mut self, count: usize) -> Self {
        self.routers = count;
        self
    }

    /// So many `mcp-server-v6` (1).
    pub fn upstreams(mut self, count: usize) -> Self {
        self.upstreams = count;
        self
    }

    /// The servers are talked to by Streamable HTTP.
    pub fn streamable(mut self) -> Self {
        self.are_streamable = true;
        self
    }

    /// These endpoints instead.
    pub fn upstream_urls(mut self, urls: impl IntoIterator<Item = String>) -> Self {
        self.upstreams = 0;
        self.upstream_urls.extend(urls);
        self
    }

    /// One router with the embedded store.
    pub fn without_redis(mut self) -> Self {
        self.redis = false;
        self
    }

    /// Routers reach Redis through a [`FaultProxy`].
    pub fn redis_proxy(mut self) -> Self {
        self.redis_proxy = Some(Behind::All);
        self
    }

    /// Only this router, by its index, reaches Redis through a [`FaultProxy`].
    pub fn redis_proxy_of(mut self, router: usize) -> Self {
        self.redis_proxy = Some(Behind::Only(router));
        self
    }

    /// Arguments for redis-server.
    pub fn redis_args(mut self, args: &[&'static str]) -> Self {
        self.redis_args.extend(args);
        self
    }

    /// Routers log in as `user:password`; a fresh server takes any password of `default`.
    pub fn redis_login(mut self, login: &'static str) -> Self {
        self.redis_login = Some(login);
        self
    }

    /// nginx in front, as nginx.conf has it.
    pub fn nginx(self, ip_hash: bool) -> Self {
        self.front(Front::stock(ip_hash))
    }

    /// nginx in front.
    pub fn front(mut self, front: Front) -> Self {
        self.front = Some(front);
        self
    }

    /// With this an instance that is dead or hangs is noticed soon.
    pub fn short_lease(self) -> Self {
        self.env("MCP_LEASE", "600ms").env("MCP_LEASE_RENEW", "150ms")
    }

    /// A setting of all routers.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Starts it all and waits until it is ready.
    pub async fn start(self) -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let redis = self.redis.then(|| RedisServer::start_with(&self.redis_args));
        let counts = dir.path().join("counts");
        let mut upstreams = Vec::new();
        for number in 1..=self.upstreams {
            upstreams.push(UpstreamProcess::start(dir.path(), &format!("server-{number}"), &counts).await);
        }
        let redis_proxy = match &redis {
            Some(redis) if self.redis_proxy.is_some() => {
                Some(FaultProxy::start(([127, 0, 0, 1], redis.port()).into()).await)
            }
            _ => None,
        };
        let mut env = self.env;
        let url_of = |upstream: &UpstreamProcess| {
            if self.are_streamable { upstream.streamable_url() } else { upstream.url() }
        };
        let urls: Vec<String> = upstreams.iter().map(url_of).chain(self.upstream_urls).collect();
        if !urls.is_empty() {
            env.entry("MCP_UPSTREAMS".to_owned()).or_insert_with(|| format!("{SERVICE}={}", urls.join(",")));
        }
        let url = |addr: SocketAddr| {
            self.redis_login.map_or(format!("redis://{addr}"), |login| format!("redis://{login}@{addr}"))
        };
        let direct = redis.as_ref().map(|redis| url(([127, 0, 0, 1], redis.port()).into()));
        let proxied = redis_proxy.as_ref().map(|proxy| url(proxy.addr()));
        let (of_all, of_one) = match self.redis_proxy {
            Some(Behind::Only(index)) => (direct, proxied.map(|url| (index, url))),
            _ => (proxied.or(direct), None),
        };
        if let Some(url) = of_all {
            env.entry("REDIS_URL".to_owned()).or_insert(url);
        }
        let launch = |index: usize| {
            let mut env = env.clone();
            if let Some((_, url)) = of_one.as_ref().filter(|(only, _)| *only == index) {
                env.insert("REDIS_URL".to_owned(), url.clone());
            }
            RouterProcess::launch(dir.path(), &format!("router-instance-{}", index + 1), &env)
        };
        let mut routers: Vec<RouterProcess> = (0..self.routers).map(launch).collect();
        for router in &mut routers {
            router.ready().await;
        }
        let addrs: Vec<SocketAddr> = routers.iter().map(RouterProcess::addr).collect();
        let nginx = match self.front {
            Some(front) => Some(Nginx::start(dir.path(), &addrs, front).await),
            None => None,
        };
        Cluster { nginx, routers, upstreams, redis_proxy, redis, env, counts, dir }
    }
}

/// See module documentation. Parts end in the order of the fields: callers before callees.
pub struct Cluster {
    /// In front, if asked for.
    pub nginx: Option<Nginx>,
    /// The instances.
    pub routers: Vec<RouterProcess>,
    /// The servers.
    pub upstreams: Vec<UpstreamProcess>,
    /// Between routers and Redis, if asked for.
    pub redis_proxy: Option<FaultProxy>,
    redis: Option<RedisServer>,
    env: Env,
    counts: PathBuf,
    dir: TempDir,
}

impl Cluster {
    /// One router, one server, one Redis, unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            routers: 1,
            upstreams: 1,
            upstream_urls: Vec::new(),
            are_streamable: false,
            redis: true,
            redis_proxy: None,
            redis_args: Vec::new(),
            redis_login: None,
            front: None,
            env: Env::new(),
        }
    }

    /// The folder with all logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Settings that all routers got.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Addresses of the routers.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.routers.iter().map(RouterProcess::addr).collect()
    }

    /// Address of one router.
    pub fn addr(&self, index: usize) -> SocketAddr {
        self.routers[index].addr()
    }

    /// Its redis-server.
    pub fn redis(&mut self) -> &mut RedisServer {
        self.redis.as_mut().expect("a cluster with Redis")
    }

    /// A connection to its Redis.
    pub async fn redis_client(&self) -> RedisClient {
        RedisClient::connect(self.redis.as_ref().expect("a cluster with Redis")).await
    }

    /// A client whose streams and POSTs go to the routers in turn.
    pub fn client(&self) -> mcp_client::Builder {
        McpClient::builder(self.addrs())
    }

    /// A client of one router only.
    pub fn client_of(&self, index: usize) -> mcp_client::Builder {
        McpClient::builder([self.addr(index)])
    }

    /// How often each key was incremented, on all servers together.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        upstream_process::counts(&self.counts)
    }

    /// The sum of a metric over all running routers.
    pub async fn metric(&self, name: &str, label: Option<&str>) -> f64 {
        let mut sum = 0.0;
        for router in self.routers.iter().filter(|router| router.is_running()) {
            sum += router.metric(name, label).await;
        }
        sum
    }

    /// No router has seen a broken guarantee, in whatever life, and be it killed since.
    pub async fn assert_no_violations(&self) {
        for router in &self.routers {
            assert_eq!(router.violations(), [""; 0], "broken guarantees at {}", router.addr());
            if router.is_running() {
                let broken = router.metric("mcp_router_invariant_violations_total", None).await;
                assert_eq!(broken, 0.0, "broken guarantees at {}: see its log", router.addr());
            }
        }
    }
}
