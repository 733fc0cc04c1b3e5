//! A leader cut off from the others, each member in a network namespace of its own.

use std::time::Duration;

use integration::client::Client;
use integration::cluster::Cluster;
use integration::netns::{Network, inside};
use integration::{binary, bounded, eventually};

const LIMIT: Duration = Duration::from_secs(150);
const ELECTION_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_isolated_leader_is_replaced_and_refuses() {
    let Some(network) = Network::or_skip(3) else { return };
    let server = binary::ours();
    let (hub, hosts) = (network.hub(), network.hosts());
    inside(&hub, move || {
        bounded(LIMIT, async move {
            let network = network;
            let cluster = Cluster::builder(&server, 3).hosts(hosts).start().await;
            let old = cluster.leader().await;
            cluster.client(old).put("key", "before").await.expect("put");

            network.isolate(old);
            let others: Vec<usize> = (0..3).filter(|&n| n != old).collect();
            let majority: Vec<Client> = others.iter().map(|&n| cluster.client(n)).collect();
            let new = eventually("a new leader", ELECTION_LIMIT, || async {
                let leader = cluster.leader_among(&others).await;
                if leader == old { Err("still the old one".to_string()) } else { Ok(leader) }
            })
            .await;
            assert!(others.contains(&new));
            let revision = eventually("a write through the majority", ELECTION_LIMIT, || async {
                majority[0].put("key", "during").await.map_err(|error| error.to_string())
            })
            .await;
            let read = majority[1].get("key").await.expect("get").expect("key");
            assert_eq!((read.value, read.mod_revision), ("during".into(), revision));

            // Asked from inside its own namespace, the old leader serves nothing that needs the others.
            let url = cluster.members[old].client_url.clone();
            let (read, write, local) = inside(&network.name(old), move || async move {
                let client = Client::new(&url);
                let local = client.prefix("key", true);
                tokio::join!(client.get("key"), client.put("key", "lost"), local)
            });
            for status in [read.map(drop).unwrap_err(), write.map(drop).unwrap_err()] {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
            }
            assert_eq!(local.expect("serializable read").kvs[0].value, "before");

            network.heal(old);
            let healed = cluster.client(old);
            let read = eventually("the old leader's return", ELECTION_LIMIT, || async {
                let read = healed.get("key").await.map_err(|error| error.to_string())?;
                Ok(read.expect("key"))
            })
            .await;
            assert_eq!((read.value, read.mod_revision), ("during".into(), revision));
            healed.put("key", "after").await.expect("put");
            assert_eq!(majority[0].get("key").await.expect("get").expect("key").value, "after");
            cluster.assert_equal_hashes().await;
        })
    });
}
