//! etcd's messages, as far as calls use them.
//!
//! They are written down here, and not taken from the client, for what they hold: keys and values are slices of the
//! answer as it came from the wire ([`Bytes`]), where the client's are copies, each in memory of its own. A slice keeps
//! its whole answer; what is kept longer than that has to be copied, and the object store does so when it reads a value.
//!
//! Fields that nobody looks at are left out, and skipped where they come. A list of messages of which there is never more
//! than one is written as an optional one, which is the same on the wire.

use bytes::Bytes;
use prost::{Message, Oneof};

/// Which store answered, and where it was.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
}

impl From<&etcd_client::ResponseHeader> for ResponseHeader {
    fn from(header: &etcd_client::ResponseHeader) -> Self {
        Self {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
        }
    }
}

/// A key with its value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(int64, tag = "2")]
    pub(crate) create_revision: i64,
    #[prost(int64, tag = "3")]
    pub(crate) mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub(crate) version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) value: Bytes,
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

impl From<etcd_client::proto::PbKeyValue> for KeyValue {
    fn from(pair: etcd_client::proto::PbKeyValue) -> Self {
        Self {
            key: pair.key.into(),
            create_revision: pair.create_revision,
            mod_revision: pair.mod_revision,
            version: pair.version,
            value: pair.value.into(),
            lease: pair.lease,
        }
    }
}

/// Reads a key, or those from `key` to before `range_end`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) range_end: Bytes,
    #[prost(int64, tag = "3")]
    pub(crate) limit: i64,
    #[prost(int64, tag = "4")]
    pub(crate) revision: i64,
    #[prost(bool, tag = "8")]
    pub(crate) keys_only: bool,
    #[prost(bool, tag = "9")]
    pub(crate) count_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(crate) more: bool,
    #[prost(int64, tag = "4")]
    pub(crate) count: i64,
}

/// A part of a range that comes as a stream.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeStreamResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) range_response: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
    #[prost(bool, tag = "6")]
    pub(crate) ignore_lease: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteRangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
}

/// What has to be so of a key for the first branch of a transaction.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Compare {
    /// How: zero is "equal", and nothing else is asked.
    #[prost(int32, tag = "1")]
    result: i32,
    /// Which number of the key.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    #[prost(oneof = "Compared", tags = "4, 6")]
    with: Option<Compared>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Compared {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "6")]
    ModRevision(i64),
}

impl Compare {
    /// The key was written exactly so often; zero: it is not there.
    pub(crate) fn version(key: Bytes, version: i64) -> Self {
        const TARGET: i32 = 0;
        Self::equal(key, TARGET, Compared::Version(version))
    }

    /// The key has the value of this revision; zero: it is not there.
    pub(crate) fn mod_revision(key: Bytes, revision: i64) -> Self {
        const TARGET: i32 = 2;
        Self::equal(key, TARGET, Compared::ModRevision(revision))
    }

    fn equal(key: Bytes, target: i32, with: Compared) -> Self {
        Self {
            result: 0,
            target,
            key,
            with: Some(with),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestOp {
    #[prost(oneof = "Operation", tags = "1, 2, 3")]
    operation: Option<Operation>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Operation {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

/// One compare, and at most one operation on either side.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnRequest {
    #[prost(message, optional, tag = "1")]
    compare: Option<Compare>,
    #[prost(message, optional, tag = "2")]
    success: Option<RequestOp>,
    #[prost(message, optional, tag = "3")]
    failure: Option<RequestOp>,
}

impl TxnRequest {
    pub(crate) fn new(compare: Compare, then: Operation, otherwise: Option<Operation>) -> Self {
        let op = |operation| RequestOp {
            operation: Some(operation),
        };
        Self {
            compare: Some(compare),
            success: Some(op(then)),
            failure: otherwise.map(op),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub(crate) succeeded: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) response: Option<ResponseOp>,
}

/// What an operation of a transaction came to. Of writes nothing is looked at.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResponseOp {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<RangeResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CompactionRequest {
    #[prost(int64, tag = "1")]
    pub(crate) revision: i64,
}

/// An answer of which nothing is looked at.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseGrantRequest {
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseTimeToLiveRequest {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseTimeToLiveResponse {
    /// Seconds that are left; -1: there is no such lease.
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusResponse {
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(int64, tag = "3")]
    pub(crate) db_size: i64,
}

/// Has a password in it, and so no `Debug` of its own.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

impl std::fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateRequest").finish_non_exhaustive()
    }
}

/// Has a token in it, and so no `Debug` of its own.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(crate) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

impl std::fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthenticateResponse").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes};
    use etcd_client::proto::{
        PbKeyValue, PbRangeResponse, PbResponseHeader, PbResponseOp, PbTxnOpResponse, PbTxnResponse,
    };
    use prost::Message;

    use super::{Compare, KeyValue, Operation, PutRequest, RangeRequest, RangeResponse, TxnRequest, TxnResponse};

    fn answer() -> PbRangeResponse {
        let pair = |key: &str| PbKeyValue {
            key: key.into(),
            create_revision: 3,
            mod_revision: 7,
            version: 2,
            value: vec![b'v'; 300],
            lease: -5,
        };
        PbRangeResponse {
            header: Some(PbResponseHeader {
                cluster_id: u64::MAX,
                member_id: 1,
                revision: 9,
                raft_term: 4,
            }),
            kvs: vec![pair("a"), pair("b")],
            more: true,
            count: 12,
        }
    }

    fn same(range: &RangeResponse) {
        let header = range.header.as_ref().expect("a header");
        assert_eq!((header.cluster_id, header.revision), (u64::MAX, 9));
        assert_eq!((range.more, range.count), (true, 12));
        let want = answer().kvs.into_iter().map(KeyValue::from);
        assert_eq!(range.kvs, want.collect::<Vec<_>>());
    }

    #[test]
    fn answers_say_what_the_clients_own_messages_say() {
        same(&RangeResponse::decode(&*answer().encode_to_vec()).expect("sound"));
        let txn = PbTxnResponse {
            header: answer().header,
            succeeded: true,
            responses: vec![PbResponseOp {
                response: Some(PbTxnOpResponse::ResponseRange(answer())),
            }],
        };
        let txn = TxnResponse::decode(&*txn.encode_to_vec()).expect("sound");
        assert!(txn.succeeded);
        same(&txn.response.and_then(|response| response.range).expect("a range"));
    }

    #[test]
    fn keys_and_values_are_slices_of_the_answer() {
        let wire = Bytes::from(answer().encode_to_vec());
        let within = |part: &Bytes| wire.as_ptr_range().contains(&part.as_ptr());
        let range = RangeResponse::decode(wire.clone()).expect("sound");
        assert!(range.kvs.iter().all(|pair| within(&pair.key) && within(&pair.value)));
    }

    /// The wire's own words, since requests go to no one here who could misunderstand them.
    #[test]
    fn requests_are_on_the_wire_what_etcd_reads() {
        let key = || Bytes::from_static(b"k");
        let range = RangeRequest {
            key: key(),
            range_end: Bytes::from_static(b"l"),
            limit: 5,
            revision: 6,
            keys_only: true,
            count_only: true,
        };
        assert_eq!(
            range.encode_to_vec(),
            b"\x0a\x01k\x12\x01l\x18\x05\x20\x06\x40\x01\x48\x01"
        );
        let put = Operation::Put(PutRequest {
            key: key(),
            value: Bytes::from_static(b"v"),
            lease: 1,
            ignore_lease: true,
        });
        let get = Operation::Range(RangeRequest {
            key: key(),
            ..RangeRequest::default()
        });
        // An expectation of zero is said, although zero is what is meant where nothing is.
        let txn = TxnRequest::new(Compare::mod_revision(key(), 0), put, Some(get));
        let (compare, put, get) = (
            &b"\x0a\x07\x10\x02\x1a\x01k\x30\x00"[..],
            &b"\x12\x0c\x12\x0a\x0a\x01k\x12\x01v\x18\x01\x30\x01"[..],
            &b"\x1a\x05\x0a\x03\x0a\x01k"[..],
        );
        let mut want = compare.chain(put).chain(get);
        assert_eq!(txn.encode_to_vec(), want.copy_to_bytes(want.remaining()));
        let version = Compare::version(key(), 3).encode_to_vec();
        assert_eq!(version, b"\x1a\x01k\x20\x03");
    }
}
