//! `export`: from our members back to stock ones.

use integration::{binary, bounded, cluster::Cluster, eventually};

use super::{
    member::{data, fill, ids, stopped},
    program::{fail, stock, succeed},
};
use crate::restore::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_etcd_starts_from_what_was_ours() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        for compact in [false, true] {
            let (cluster, before, known) = stopped(&binary::ours(), compact).await;
            let dir = cluster.path();
            let member = &cluster.members[0];
            succeed(dir, &["export", "--data-dir", "m0.etcd", "--target", "stock/m0.etcd"]);
            let mut taken = integration::cluster::Member::new(
                &stock.etcd,
                &integration::cluster::Host::loopback(),
                &dir.join("stock"),
                &member.name,
                member.client_url.clone(),
                member.peer_url.clone(),
                member.args.clone(),
            );
            taken.restart().await;
            assert_eq!(data(&taken.client()).await, before);
            assert_eq!(ids(&taken.client()).await, known);
            assert_eq!(taken.client().time_to_live(0x77).await.unwrap().granted_ttl, 3600);
            taken.client().put("written by", "a stock etcd").await.unwrap();
            let later = data(&taken.client()).await;
            taken.stop().await;
            taken.restart().await;
            assert_eq!(data(&taken.client()).await, later);
            let error = fail(dir, &["export", "--data-dir", "m0.etcd", "--target", "stock/m0.etcd"]);
            assert!(error.contains("not empty"), "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_3_4_starts_from_what_was_ours() {
    bounded(LIMIT, async {
        let Some(old) = binary::peer("3.4.") else { return };
        let (cluster, before, known) = stopped(&binary::ours(), true).await;
        let dir = cluster.path();
        let member = &cluster.members[0];
        let args = ["export", "--data-dir", "m0.etcd", "--target", "old/m0.etcd", "--cluster-version", "3.4"];
        succeed(dir, &args);
        let mut taken = integration::cluster::Member::new(
            &old,
            &integration::cluster::Host::loopback(),
            &dir.join("old"),
            &member.name,
            member.client_url.clone(),
            member.peer_url.clone(),
            member.args.clone(),
        );
        taken.restart().await;
        let found = data(&taken.client()).await;
        assert_eq!((found.revision, found.keys, found.hash), (before.revision, before.keys, before.hash));
        assert_eq!(ids(&taken.client()).await, known);
        taken.client().put("written by", "a stock etcd").await.unwrap();
        taken.stop().await;
        taken.restart().await;
    })
    .await;
}

/// Killed, so that log and database end at different places; the rest of its cluster goes on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_exported_member_finds_its_place_in_its_cluster() {
    bounded(LIMIT, async {
        let Some(stock) = stock() else { return };
        let mut cluster = Cluster::start(&binary::ours(), 3).await;
        let dir = cluster.path().to_path_buf();
        fill(&cluster.client(0), true).await;
        let error = fail(&dir, &["export", "--data-dir", "m1.etcd", "--target", "stock/m1.etcd"]);
        assert!(error.contains("is in use: stop the server"), "{error}");
        cluster.members[1].stop().await;
        cluster.members[1].restart().await;
        cluster.client(2).put("before", "the kill").await.unwrap();
        cluster.members[1].kill();
        cluster.client(0).put("while it", "was away").await.unwrap();
        succeed(&dir, &["export", "--data-dir", "m1.etcd", "--target", "stock/m1.etcd"]);
        let away = &cluster.members[1];
        let mut taken = integration::cluster::Member::new(
            &stock.etcd,
            &integration::cluster::Host::loopback(),
            &dir.join("stock"),
            &away.name,
            away.client_url.clone(),
            away.peer_url.clone(),
            away.args.clone(),
        );
        taken.restart().await;
        // It counts: the other two alone would be one short without it.
        cluster.members[2].kill();
        eventually("a write with the exported member", LIMIT, || async {
            taken.client().put("with", "it").await.map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(data(&taken.client()).await, data(&cluster.client(0)).await);
        assert_eq!(ids(&taken.client()).await.2, ids(&cluster.client(0)).await.2);
    })
    .await;
}
