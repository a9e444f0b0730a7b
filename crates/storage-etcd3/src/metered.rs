//! What goes over the wire is counted, each attempt by itself, under the names that gRPC clients have
//! (`storage-etcd3/METR-13`): `grpc_client_started_total` and `grpc_client_handled_total`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tower::Service;

/// A connection whose calls are counted.
#[derive(Clone)]
pub(crate) struct Metered(pub(crate) Channel);

/// What is called: `etcdserverpb` is one family of few methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Method {
    service: &'static str,
    name: &'static str,
    streaming: bool,
}

const METHODS: [(&str, Method); 9] = [
    ("/etcdserverpb.KV/Range", unary("etcdserverpb.KV", "Range")),
    ("/etcdserverpb.KV/RangeStream", stream("etcdserverpb.KV", "RangeStream")),
    ("/etcdserverpb.KV/Txn", unary("etcdserverpb.KV", "Txn")),
    ("/etcdserverpb.KV/Compact", unary("etcdserverpb.KV", "Compact")),
    ("/etcdserverpb.Watch/Watch", stream("etcdserverpb.Watch", "Watch")),
    (
        "/etcdserverpb.Lease/LeaseGrant",
        unary("etcdserverpb.Lease", "LeaseGrant"),
    ),
    (
        "/etcdserverpb.Maintenance/Status",
        unary("etcdserverpb.Maintenance", "Status"),
    ),
    (
        "/etcdserverpb.Auth/Authenticate",
        unary("etcdserverpb.Auth", "Authenticate"),
    ),
    ("", unary("other", "other")),
];

const fn unary(service: &'static str, name: &'static str) -> Method {
    Method {
        service,
        name,
        streaming: false,
    }
}

const fn stream(service: &'static str, name: &'static str) -> Method {
    Method {
        service,
        name,
        streaming: true,
    }
}

impl Method {
    fn of(path: &str) -> Self {
        let known = METHODS.iter().find(|(known, _)| *known == path || known.is_empty());
        known.map_or(unary("other", "other"), |(_, method)| *method)
    }

    fn kind(self) -> &'static str {
        if self.streaming { "bidi_stream" } else { "unary" }
    }

    fn started(self) {
        metrics::counter!(
            "grpc_client_started_total",
            "grpc_type" => self.kind(), "grpc_service" => self.service, "grpc_method" => self.name
        )
        .increment(1);
    }

    fn handled(self, code: Code) {
        metrics::counter!(
            "grpc_client_handled_total",
            "grpc_type" => self.kind(), "grpc_service" => self.service, "grpc_method" => self.name,
            "grpc_code" => name(code)
        )
        .increment(1);
    }
}

impl Service<Request<Body>> for Metered {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method::of(request.uri().path());
        method.started();
        let call = self.0.call(request);
        Box::pin(async move {
            let answer = call.await;
            match &answer {
                Err(_) => method.handled(Code::Unavailable),
                // etcd says what is wrong instead of an answer, never behind one. A stream is counted when it fails to
                // begin; how it ends shows in the metrics of watches.
                Ok(response) => match response.headers().get("grpc-status") {
                    Some(status) => method.handled(Code::from_bytes(status.as_bytes())),
                    None if !method.streaming => method.handled(Code::Ok),
                    None => {}
                },
            }
            answer
        })
    }
}

/// The code as gRPC's own metrics write it.
fn name(code: Code) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::Method;

    #[test]
    fn a_path_names_its_method_and_an_unknown_one_none() {
        for (path, want) in [
            ("/etcdserverpb.KV/Range", ("etcdserverpb.KV", "Range", "unary")),
            (
                "/etcdserverpb.Watch/Watch",
                ("etcdserverpb.Watch", "Watch", "bidi_stream"),
            ),
            ("/etcdserverpb.Lease/LeaseRevoke", ("other", "other", "unary")),
            ("", ("other", "other", "unary")),
        ] {
            let method = Method::of(path);
            assert_eq!((method.service, method.name, method.kind()), want, "{path:?}");
        }
    }
}
