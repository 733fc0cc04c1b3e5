//! Requests as the log carries them: an `etcdserverpb.InternalRaftRequest` with one operation and the request's ID.
//!
//! Encoded without the message itself: it is a struct of all operations there are, and costs more to fill and to move
//! than a put costs to encode.

use prost::{Message, encoding::message};
use proto::{etcdserverpb as pb, membershippb};

use crate::auth::Identity;

/// An operation, and its field in `InternalRaftRequest`.
pub trait Operation: Message {
    const FIELD: u32;
}

macro_rules! operations {
    ($($operation:path = $field:literal;)*) => {
        $(impl Operation for $operation {
            const FIELD: u32 = $field;
        })*
    };
}

operations! {
    pb::PutRequest = 4;
    pb::DeleteRangeRequest = 5;
    pb::TxnRequest = 6;
    pb::CompactionRequest = 7;
    pb::LeaseGrantRequest = 8;
    pb::LeaseRevokeRequest = 9;
    pb::AlarmRequest = 10;
    pb::LeaseCheckpointRequest = 11;
    pb::AuthEnableRequest = 1000;
    pb::AuthDisableRequest = 1011;
    pb::InternalAuthenticateRequest = 1012;
    pb::AuthUserAddRequest = 1100;
    pb::AuthUserDeleteRequest = 1101;
    pb::AuthUserChangePasswordRequest = 1103;
    pb::AuthUserGrantRoleRequest = 1104;
    pb::AuthUserRevokeRoleRequest = 1105;
    pb::AuthRoleAddRequest = 1200;
    pb::AuthRoleDeleteRequest = 1201;
    pb::AuthRoleGrantPermissionRequest = 1203;
    pb::AuthRoleRevokePermissionRequest = 1204;
    membershippb::ClusterVersionSetRequest = 1300;
    membershippb::ClusterMemberAttrSetRequest = 1301;
    membershippb::DowngradeInfoSetRequest = 1302;
}

const HEADER_FIELD: u32 = 100;

/// The data of an entry by which `who` asks for `operation` under `id`. Fields come in their order, as etcd has them.
pub fn encode<O: Operation>(id: u64, who: Option<&Identity>, operation: &O) -> Vec<u8> {
    let header = pb::RequestHeader {
        id,
        username: who.map_or_else(String::new, |who| who.name.as_ref().into()),
        auth_revision: who.map_or(0, |who| who.revision),
    };
    let len = message::encoded_len(O::FIELD, operation) + message::encoded_len(HEADER_FIELD, &header);
    let mut data = Vec::with_capacity(len);
    if O::FIELD > HEADER_FIELD {
        message::encode(HEADER_FIELD, &header, &mut data);
    }
    message::encode(O::FIELD, operation, &mut data);
    if O::FIELD < HEADER_FIELD {
        message::encode(HEADER_FIELD, &header, &mut data);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded<O: Operation>(operation: &O) -> pb::InternalRaftRequest {
        let who = Identity { name: "u".into(), revision: 3 };
        let encoded = encode(u64::MAX, Some(&who), operation);
        let request = pb::InternalRaftRequest::decode(encoded.as_slice()).unwrap();
        assert_eq!(request.encode_to_vec(), encoded, "as etcd's own encoding");
        let header = pb::RequestHeader { id: u64::MAX, username: "u".into(), auth_revision: 3 };
        assert_eq!(request.header.as_ref(), Some(&header));
        pb::InternalRaftRequest { header: None, ..request }
    }

    #[test]
    fn every_operation_arrives_in_its_own_field() {
        let empty = pb::InternalRaftRequest::default;
        let put = pb::PutRequest { key: "k".into(), value: "v".into(), lease: 7, ..Default::default() };
        assert_eq!(decoded(&put), pb::InternalRaftRequest { put: Some(put), ..empty() });
        let delete = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
        assert_eq!(decoded(&delete), pb::InternalRaftRequest { delete_range: Some(delete), ..empty() });
        let txn = pb::TxnRequest { compare: vec![Default::default()], ..Default::default() };
        assert_eq!(decoded(&txn), pb::InternalRaftRequest { txn: Some(txn), ..empty() });
        let compaction = pb::CompactionRequest { revision: 3, physical: true };
        assert_eq!(decoded(&compaction), pb::InternalRaftRequest { compaction: Some(compaction), ..empty() });
        let lease_grant = pb::LeaseGrantRequest { ttl: 1, id: 2 };
        assert_eq!(
            decoded(&lease_grant),
            pb::InternalRaftRequest { lease_grant: Some(lease_grant), ..empty() }
        );
        let lease_revoke = pb::LeaseRevokeRequest { id: 2 };
        assert_eq!(
            decoded(&lease_revoke),
            pb::InternalRaftRequest { lease_revoke: Some(lease_revoke), ..empty() }
        );
        let alarm = pb::AlarmRequest { action: 1, member_id: 2, alarm: 1 };
        assert_eq!(decoded(&alarm), pb::InternalRaftRequest { alarm: Some(alarm), ..empty() });
        let checkpoints = vec![pb::LeaseCheckpoint { id: 1, remaining_ttl: 2 }];
        let lease_checkpoint = pb::LeaseCheckpointRequest { checkpoints };
        assert_eq!(
            decoded(&lease_checkpoint.clone()),
            pb::InternalRaftRequest { lease_checkpoint: Some(lease_checkpoint), ..empty() }
        );
        let version = membershippb::ClusterVersionSetRequest { ver: "3.5.0".into() };
        assert_eq!(
            decoded(&version.clone()),
            pb::InternalRaftRequest { cluster_version_set: Some(version), ..empty() }
        );
        macro_rules! auth {
            ($($request:ident { $($name:ident: $value:expr),* } in $field:ident;)*) => {$({
                let request = pb::$request { $($name: $value,)* ..Default::default() };
                let wanted = pb::InternalRaftRequest { $field: Some(request.clone()), ..empty() };
                assert_eq!(decoded(&request), wanted);
            })*};
        }
        auth! {
            AuthEnableRequest {} in auth_enable;
            AuthDisableRequest {} in auth_disable;
            InternalAuthenticateRequest { name: "n".into(), simple_token: "t".into() } in authenticate;
            AuthUserAddRequest { name: "n".into(), hashed_password: "h".into() } in auth_user_add;
            AuthUserDeleteRequest { name: "n".into() } in auth_user_delete;
            AuthUserChangePasswordRequest { name: "n".into() } in auth_user_change_password;
            AuthUserGrantRoleRequest { user: "u".into(), role: "r".into() } in auth_user_grant_role;
            AuthUserRevokeRoleRequest { name: "u".into(), role: "r".into() } in auth_user_revoke_role;
            AuthRoleAddRequest { name: "r".into() } in auth_role_add;
            AuthRoleDeleteRequest { role: "r".into() } in auth_role_delete;
            AuthRoleGrantPermissionRequest { name: "r".into() } in auth_role_grant_permission;
            AuthRoleRevokePermissionRequest { role: "r".into(), key: "k".into() } in auth_role_revoke_permission;
        }
        let attributes = membershippb::ClusterMemberAttrSetRequest { member_id: 1, member_attributes: None };
        assert_eq!(
            decoded(&attributes.clone()),
            pb::InternalRaftRequest { cluster_member_attr_set: Some(attributes), ..empty() }
        );
    }
}
