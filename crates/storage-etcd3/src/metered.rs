//! What goes over the wire is counted, each attempt by itself, under the names that gRPC clients have
//! (`storage-etcd3/METR-13`): `grpc_client_started_total` and `grpc_client_handled_total`.
//!
//! Counted where a call is made and not below it: a layer around the connection would cost each call two allocations.

use std::future::Future;

use metrics::Counter;
use tonic::{Code, Status};

/// A method of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Range,
    RangeStream,
    Txn,
    Compact,
    LeaseGrant,
    LeaseTimeToLive,
    Status,
    Watch,
}

/// A counter with labels that are known when this is compiled, so that nothing is put together for a call.
macro_rules! counter_of {
    ($method:expr, $name:literal $(, $label:literal => $value:literal)*) => {
        match $method {
            Method::Range => counter_of!(@ $name, "unary", "etcdserverpb.KV", "Range" $(, $label => $value)*),
            Method::RangeStream => {
                counter_of!(@ $name, "server_stream", "etcdserverpb.KV", "RangeStream" $(, $label => $value)*)
            }
            Method::Txn => counter_of!(@ $name, "unary", "etcdserverpb.KV", "Txn" $(, $label => $value)*),
            Method::Compact => counter_of!(@ $name, "unary", "etcdserverpb.KV", "Compact" $(, $label => $value)*),
            Method::LeaseGrant => counter_of!(@ $name, "unary", "etcdserverpb.Lease", "LeaseGrant" $(, $label => $value)*),
            Method::LeaseTimeToLive => {
                counter_of!(@ $name, "unary", "etcdserverpb.Lease", "LeaseTimeToLive" $(, $label => $value)*)
            }
            Method::Status => counter_of!(@ $name, "unary", "etcdserverpb.Maintenance", "Status" $(, $label => $value)*),
            Method::Watch => counter_of!(@ $name, "bidi_stream", "etcdserverpb.Watch", "Watch" $(, $label => $value)*),
        }
    };
    (@ $name:literal, $kind:literal, $service:literal, $method:literal $(, $label:literal => $value:literal)*) => {
        metrics::counter!(
            $name,
            "grpc_type" => $kind, "grpc_service" => $service, "grpc_method" => $method $(, $label => $value)*
        )
    };
}

impl Method {
    /// Counts an attempt, and how it ends.
    pub(crate) fn started(self) -> Attempt {
        counter_of!(self, "grpc_client_started_total").increment(1);
        Attempt(Some(self))
    }

    /// Counts an attempt and how it ends.
    pub(crate) async fn counted<T>(self, attempt: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let mut started = self.started();
        let result = attempt.await;
        started.ended(result.as_ref().map_or_else(Status::code, |_| Code::Ok));
        result
    }

    fn failed(self, code: Code) -> Counter {
        metrics::counter!(
            "grpc_client_handled_total",
            "grpc_type" => self.kind(), "grpc_service" => self.service(), "grpc_method" => self.name(),
            "grpc_code" => code_name(code)
        )
    }

    fn kind(self) -> &'static str {
        match self {
            Self::RangeStream => "server_stream",
            Self::Watch => "bidi_stream",
            _ => "unary",
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::Range | Self::RangeStream | Self::Txn | Self::Compact => "etcdserverpb.KV",
            Self::LeaseGrant | Self::LeaseTimeToLive => "etcdserverpb.Lease",
            Self::Status => "etcdserverpb.Maintenance",
            Self::Watch => "etcdserverpb.Watch",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Range => "Range",
            Self::RangeStream => "RangeStream",
            Self::Txn => "Txn",
            Self::Compact => "Compact",
            Self::LeaseGrant => "LeaseGrant",
            Self::LeaseTimeToLive => "LeaseTimeToLive",
            Self::Status => "Status",
            Self::Watch => "Watch",
        }
    }
}

/// A call or a stream that was started and has not ended. One that is dropped was given up on: it ends as canceled, as it
/// does for gRPC's own clients.
#[derive(Debug)]
pub(crate) struct Attempt(Option<Method>);

impl Attempt {
    /// Counts how it ended; once, however often it is told.
    pub(crate) fn ended(&mut self, code: Code) {
        match (self.0.take(), code) {
            (None, _) => {}
            (Some(method), Code::Ok) => {
                counter_of!(method, "grpc_client_handled_total", "grpc_code" => "OK").increment(1);
            }
            (Some(method), code) => method.failed(code).increment(1),
        }
    }

    /// The same of an error of the client, which may have none of gRPC's codes.
    pub(crate) fn failed(&mut self, error: &etcd_client::Error) {
        self.ended(match error {
            etcd_client::Error::GRpcStatus(status) => status.code(),
            _ => Code::Unknown,
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// The code as gRPC's own metrics write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
