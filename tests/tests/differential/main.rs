//! The same random requests, in the same order, to a stock etcd and to ours: every answer must be equal.
//! `generate` makes requests that collide on a few dozen keys, `answer` sends one and makes answers
//! comparable, `history` compares what watches deliver. `KEELSON_DIFFERENTIAL_REQUESTS` sets the length of
//! the run and `KEELSON_DIFFERENTIAL_SEED` repeats one. `auth` does the same for users, roles and what they may.

mod answer;
mod auth;
mod generate;
mod history;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use integration::binary::{self, Binary};
use integration::client::Client;
use integration::cluster::{Host, Member, START_LIMIT, free_port};
use integration::{bounded, setting};

use answer::{Answer, Side};
use generate::{Generator, Request};

const REQUESTS: u64 = 5_000;
const REQUESTS_SHOWN: usize = 20;
/// Enough for the run even on a slow disk.
const LIMIT_PER_REQUEST: Duration = Duration::from_millis(40);

/// One member that takes its identity from URLs both sides share, and listens elsewhere.
fn member(binary: &Binary, dir: &std::path::Path, name: &str, more: &[&str]) -> Member {
    let host = Host::loopback();
    let url = || format!("http://{}:{}", host.address, free_port(&host));
    let (client_url, peer_url) = (url(), url());
    let args = [
        "--name=twin".to_string(),
        format!("--listen-client-urls={client_url}"),
        "--advertise-client-urls=http://127.0.0.1:2".to_string(),
        format!("--listen-peer-urls={peer_url}"),
        "--initial-advertise-peer-urls=http://127.0.0.1:1".to_string(),
        "--initial-cluster=twin=http://127.0.0.1:1".to_string(),
        "--initial-cluster-token=differential".to_string(),
    ];
    let args = args.into_iter().chain(more.iter().map(ToString::to_string)).collect();
    Member::new(binary, &host, dir, name, client_url, peer_url, args)
}

async fn pair() -> Option<(tempfile::TempDir, Member, Member)> {
    pair_with(&[]).await
}

async fn pair_with(more: &[&str]) -> Option<(tempfile::TempDir, Member, Member)> {
    let peer = binary::peer("3.5.")?;
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut stock = member(&peer, dir.path(), "stock", more);
    let mut ours = member(&binary::ours(), dir.path(), "ours", more);
    stock.spawn();
    ours.spawn();
    stock.ready().await;
    ours.ready().await;
    Some((dir, stock, ours))
}

/// What a run of the default length must have met, or its requests are not worth much.
const MET: [&str; 25] = [
    "Range",
    "Put",
    "Delete",
    "Txn",
    "Compact",
    "Grant",
    "Revoke",
    "KeepAlive",
    "TimeToLive",
    "Leases",
    "HashKV",
    "MemberList",
    "Alarms",
    "Status",
    "etcdserver: key is not provided",
    "etcdserver: key not found",
    "etcdserver: value is provided",
    "etcdserver: lease is provided",
    "etcdserver: too many operations in txn request",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: requested lease not found",
    "etcdserver: lease already exists",
    "etcdserver: too large lease TTL",
];

struct Run {
    seed: u64,
    number: u64,
    recent: VecDeque<Request>,
    met: BTreeMap<String, u64>,
    generator: Generator,
    stock: Side,
    ours: Side,
}

impl Run {
    async fn step(&mut self) {
        let request = self.generator.next();
        self.recent.push_back(request.clone());
        if self.recent.len() > REQUESTS_SHOWN {
            self.recent.pop_front();
        }
        let (stock, ours) = tokio::join!(self.stock.send(&request), self.ours.send(&request));
        let lost = matches!((&stock, &ours), (Answer::Lost(_), _) | (_, Answer::Lost(_)));
        if lost || stock != ours {
            let recent: Vec<String> = self.recent.iter().map(|request| format!("  {request:?}")).collect();
            panic!(
                "answers differ or are missing\nseed {} request {}\n{request:?}\nstock: {stock:#?}\nours:  {ours:#?}\nlast requests:\n{}",
                self.seed,
                self.number,
                recent.join("\n")
            );
        }
        self.generator.observe(&request, &stock);
        *self.met.entry(stock.kind().to_string()).or_default() += 1;
        self.number += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_watch_history_equal_stock_etcd() {
    let count = setting("KEELSON_DIFFERENTIAL_REQUESTS", REQUESTS);
    let seed = setting("KEELSON_DIFFERENTIAL_SEED", rand::random::<u32>().into());
    println!("differential: seed {seed}, {count} requests");
    let requests = u32::try_from(count).expect("a run that ends");
    bounded(4 * START_LIMIT + LIMIT_PER_REQUEST * requests, async {
        let Some((_dir, stock, ours)) = pair().await else { return };
        let (stock, ours) = (Side::new(stock.client()).await, Side::new(ours.client()).await);
        let live = (history::follow(stock.client.clone()).await, history::follow(ours.client.clone()).await);
        let generator = Generator::new(seed);
        let (recent, met) = (VecDeque::new(), BTreeMap::new());
        let mut run = Run { seed, number: 0, recent, met, generator, stock, ours };
        for _ in 0..count {
            run.step().await;
        }
        println!("differential: {:?}", run.met);
        if count >= REQUESTS {
            let missed: Vec<_> = MET.iter().filter(|kind| !run.met.contains_key(**kind)).collect();
            assert!(missed.is_empty(), "seed {seed}: never met {missed:?}");
        }
        let clients = (&run.stock.client, &run.ours.client);
        history::compare(seed, run.generator.compacted(), clients, live).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_refusals_equal_stock_etcd() {
    bounded(3 * START_LIMIT, async {
        let Some((_dir, stock, ours)) = pair().await else { return };
        let (stock, ours): (Client, Client) = (stock.client(), ours.client());
        let (stock, ours) = tokio::join!(history::refusals(&stock), history::refusals(&ours));
        assert_eq!(stock.len(), ours.len());
        for (n, (stock, ours)) in stock.iter().zip(&ours).enumerate() {
            assert_eq!(stock, ours, "watch answer {n}: stock left, ours right");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_fragments_equal_stock_etcd() {
    bounded(3 * START_LIMIT, async {
        let Some((_dir, stock, ours)) = pair().await else { return };
        let (stock, ours): (Client, Client) = (stock.client(), ours.client());
        let (stock, ours) = tokio::join!(history::fragments(&stock), history::fragments(&ours));
        assert_eq!(stock.len(), 113);
        // Not printed: megabytes.
        assert!(stock == ours, "events differ");
    })
    .await;
}
