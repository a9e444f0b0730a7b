//! What is too large for a server, in both ways that a server says so.

mod common;

use apiserver_storage_kv::{Expected, Kv, KvError, Lease};
use etcd_client::{Client, Error};

use common::{Etcd, applied, connect};

// covers: storage-etcd3/SIZE-02, storage-etcd3/EERR-04, storage-etcd3/RCLI-12
#[tokio::test]
async fn a_server_refuses_large_requests_and_does_not_even_read_larger_ones() {
    const LIMIT: usize = 100_000;
    let flag = format!("--max-request-bytes={LIMIT}");
    let Some(etcd) = Etcd::start_with(None, &[&flag]).await else {
        return;
    };
    // This client thinks that the server takes the usual size, so that nothing is refused on this side.
    let kv = connect(etcd.config()).await;
    let put = async |size: usize| {
        let value = vec![b'x'; size].into();
        kv.put_if("/registry/a", value, Expected::Absent, Lease::None).await
    };
    let mut client = Client::connect([etcd.url()], None).await.expect("connects");
    let grpc = 512 * 1024;
    for (size, code, text) in [
        (LIMIT, "InvalidArgument", "request is too large"),
        (LIMIT + grpc - 1000, "InvalidArgument", "request is too large"),
        (LIMIT + grpc, "ResourceExhausted", "larger than max"),
        (1_400_000, "ResourceExhausted", "larger than max"),
    ] {
        let refused = put(size).await;
        assert!(
            matches!(refused, Err(KvError::TooLarge { size: said, .. }) if said == size),
            "{size}: {refused:?}"
        );
        let raw = client.put("/a", vec![b'x'; size], None).await.expect_err("too large");
        let Error::GRpcStatus(status) = raw else {
            panic!("{size}: {raw:?}")
        };
        assert_eq!(format!("{:?}", status.code()), code, "{size}");
        assert!(status.message().contains(text), "{size}: {}", status.message());
    }
    applied(put(LIMIT - 1000).await.expect("small enough"));
}
