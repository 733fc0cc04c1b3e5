//! The etcd-client crate: keys, a transaction, a lease and a watch.

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use integration::cluster::Cluster;
use integration::{binary, bounded};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_client_crate() {
    bounded(crate::LIMIT, async {
        let cluster = Cluster::start(&binary::ours(), 1).await;
        let mut client = Client::connect([cluster.members[0].client_address()], None).await.expect("connect");

        let options = WatchOptions::new().with_prefix().with_prev_key();
        let mut watch = client.watch("k/", Some(options)).await.expect("watch");
        for n in 0..3 {
            client.put(format!("k/{n}"), n.to_string(), None).await.expect("put");
        }
        let all = client.get("k/", Some(GetOptions::new().with_prefix())).await.expect("get");
        let values: Vec<&[u8]> = all.kvs().iter().map(|kv| kv.value()).collect();
        assert_eq!((all.count(), values), (3, vec![b"0".as_slice(), b"1", b"2"]));

        let txn = Txn::new()
            .when([
                Compare::value("k/1", CompareOp::Equal, "1"),
                Compare::version("none", CompareOp::Equal, 0),
            ])
            .and_then([TxnOp::put("k/1", "changed", None), TxnOp::get("k/1", None)])
            .or_else([TxnOp::delete("k/1", None)]);
        let answer = client.txn(txn).await.expect("txn");
        assert!(answer.succeeded());
        match &answer.op_responses()[1] {
            TxnOpResponse::Get(get) => assert_eq!(get.kvs()[0].value(), b"changed"),
            other => panic!("{other:?}"),
        }

        let lease = client.lease_grant(600, None).await.expect("grant");
        assert_eq!(lease.ttl(), 600);
        client.put("k/leased", "x", Some(PutOptions::new().with_lease(lease.id()))).await.expect("put");
        let (mut keeper, mut renewals) = client.lease_keep_alive(lease.id()).await.expect("keep-alive");
        keeper.keep_alive().await.expect("keep-alive");
        assert_eq!(renewals.message().await.expect("renewal").expect("renewal").ttl(), 600);
        let left = client.lease_time_to_live(lease.id(), None).await.expect("time to live");
        assert_eq!(left.granted_ttl(), 600);
        client.lease_revoke(lease.id()).await.expect("revoke");
        assert_eq!(client.get("k/leased", None).await.expect("get").count(), 0);
        client.delete("k/0", None).await.expect("delete");

        let mut seen = Vec::new();
        while seen.len() < 7 {
            let answer = watch.message().await.expect("watch").expect("watch");
            assert!(!answer.canceled());
            for event in answer.events() {
                let key = event.kv().expect("kv").key_str().expect("our key").to_string();
                seen.push((event.event_type() == EventType::Put, key, event.prev_kv().is_some()));
            }
        }
        let expected = [
            (true, "k/0", false),
            (true, "k/1", false),
            (true, "k/2", false),
            (true, "k/1", true),
            (true, "k/leased", false),
            (false, "k/leased", true),
            (false, "k/0", true),
        ];
        assert_eq!(seen, expected.map(|(put, key, prev)| (put, key.to_string(), prev)));
    })
    .await;
}
