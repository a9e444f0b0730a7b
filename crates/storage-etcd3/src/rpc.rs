//! Calls to one member over one connection: reads, writes, leases, and what the member says of itself.
//!
//! They go over the channel as it is, with messages of our own ([`proto`](crate::proto)). What the client does around
//! its calls is done here the same way: each asks for a leader, and one whose token means nothing any more is sent once
//! more with a new one.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;

use parking_lot::RwLock;
use prost::Message;
use tokio::sync::Mutex;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::config::Credentials;
use crate::proto::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Nothing, RangeRequest, RangeResponse, RangeStreamResponse,
    StatusResponse, TxnRequest, TxnResponse,
};

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

const TOKEN: &str = "token";
const LEADER: &str = "hasleader";

/// Bytes before each message.
const FRAME_HEAD: usize = 5;

type Token = MetadataValue<Ascii>;

/// A connection to one member.
pub(crate) struct Rpc {
    grpc: Grpc<Channel>,
    /// Who calls, where the cluster has users.
    login: Option<Login>,
}

/// A user, and the token of the moment.
struct Login {
    credentials: Credentials,
    token: RwLock<Option<Token>>,
    /// Held by the one who logs in: many calls find at once that their token means nothing, and one new one will do.
    turn: Mutex<()>,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").finish_non_exhaustive()
    }
}

impl Rpc {
    /// Calls over a channel. Logs in first where there is somebody to log in.
    pub(crate) async fn new(channel: Channel, credentials: Option<&Credentials>) -> Result<Self, Status> {
        let login = credentials.map(|credentials| Login {
            credentials: credentials.clone(),
            token: RwLock::new(None),
            turn: Mutex::new(()),
        });
        let grpc = Grpc::new(channel).max_decoding_message_size(usize::MAX);
        let rpc = Self { grpc, login };
        if let Some(login) = &rpc.login {
            rpc.log_in(login, None).await?;
        }
        Ok(rpc)
    }

    /// Reads keys.
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.unary(RANGE, request).await
    }

    /// Reads keys, if the answer has no more than so many bytes. One that has is let go before it has come.
    pub(crate) async fn range_within(&self, request: RangeRequest, room: usize) -> Result<Fitting, Status> {
        let answer = self
            .authorized(|token| self.call_within(RANGE, request.clone(), token, room))
            .await;
        match answer {
            Ok(answer) => Ok(Fitting::Fits(answer)),
            Err(status) => oversize(&status).map(Fitting::TooLarge).ok_or(status),
        }
    }

    /// Reads keys, in parts.
    pub(crate) async fn range_stream(&self, request: RangeRequest) -> Result<Streaming<RangeStreamResponse>, Status> {
        self.authorized(|token| self.open(RANGE_STREAM, request.clone(), token))
            .await
    }

    /// Writes on condition.
    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.unary(TXN, request).await
    }

    /// Forgets history below a revision.
    pub(crate) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let _: Nothing = self.unary(COMPACT, CompactionRequest { revision }).await?;
        Ok(())
    }

    /// A lease of at least so many seconds.
    pub(crate) async fn lease_grant(&self, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        self.unary(LEASE_GRANT, LeaseGrantRequest { ttl }).await
    }

    /// How long a lease lasts.
    pub(crate) async fn lease_time_to_live(&self, id: i64) -> Result<LeaseTimeToLiveResponse, Status> {
        self.unary(LEASE_TIME_TO_LIVE, LeaseTimeToLiveRequest { id }).await
    }

    /// What the member says of itself.
    pub(crate) async fn status(&self) -> Result<StatusResponse, Status> {
        self.unary(STATUS, Nothing {}).await
    }

    async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        match &self.login {
            // Nothing is sent twice, so nothing need be kept.
            None => self.call(path, message, None).await,
            Some(_) => self.authorized(|token| self.call(path, message.clone(), token)).await,
        }
    }

    /// Makes a call, and once more if the token that it is made with is none any more.
    async fn authorized<A, F>(&self, call: impl Fn(Option<Token>) -> F) -> Result<A, Status>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let Some(login) = &self.login else {
            return call(None).await;
        };
        let token = login.token.read().clone();
        match call(token.clone()).await {
            Err(status) if status.code() == Code::Unauthenticated => {
                self.log_in(login, token).await?;
                let token = login.token.read().clone();
                call(token).await
            }
            other => other,
        }
    }

    /// Gets a new token, unless somebody else got one in the place of `stale` meanwhile.
    async fn log_in(&self, login: &Login, stale: Option<Token>) -> Result<(), Status> {
        let _turn = login.turn.lock().await;
        if *login.token.read() != stale {
            return Ok(());
        }
        let Credentials { user, password } = &login.credentials;
        let request = AuthenticateRequest {
            name: user.clone(),
            password: password.clone(),
        };
        let answer: AuthenticateResponse = self.call(AUTHENTICATE, request, None).await?;
        let token = answer.token.parse();
        let token = token.map_err(|_| Status::unauthenticated("a token that no request can carry"))?;
        *login.token.write() = Some(token);
        Ok(())
    }

    async fn call<Q, A>(&self, path: &'static str, message: Q, token: Option<Token>) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        // What an answer may weigh is decided by who asks for it.
        self.call_within(path, message, token, usize::MAX).await
    }

    async fn call_within<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        token: Option<Token>,
        room: usize,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?.max_decoding_message_size(room);
        let (path, codec) = (PathAndQuery::from_static(path), Exact::of(&message));
        Ok(grpc.unary(asked(message, token), path, codec).await?.into_inner())
    }

    async fn open<Q, A>(&self, path: &'static str, message: Q, token: Option<Token>) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, A>::new());
        let opened = grpc.server_streaming(asked(message, token), path, codec);
        Ok(opened.await?.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = self.grpc.clone();
        let ready = grpc.ready().await;
        // As the client has it: this text is what tells such a failure, after which nothing was sent.
        ready.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
        Ok(grpc)
    }
}

/// An answer that was to be no larger than so much.
pub(crate) enum Fitting {
    Fits(RangeResponse),
    /// It has so many bytes, and was not taken.
    TooLarge(usize),
}

/// The bytes of an answer that was refused for its size. Nothing but the text tells: the code is that of compacted and
/// future revisions too.
fn oversize(status: &Status) -> Option<usize> {
    let found = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let (bytes, _) = found.split_once(" bytes")?;
    bytes.parse().ok().filter(|_| status.code() == Code::OutOfRange)
}

/// The codec of one call: its message is written into a buffer of just its size. The one that every message gets
/// otherwise has 8 KiB, which is much for a question and not enough for most objects, so that it would grow.
struct Exact<Q, A> {
    bytes: usize,
    messages: PhantomData<(Q, A)>,
}

impl<Q: Message, A> Exact<Q, A> {
    fn of(message: &Q) -> Self {
        Self {
            bytes: FRAME_HEAD + message.encoded_len(),
            messages: PhantomData,
        }
    }
}

impl<Q, A> Codec for Exact<Q, A>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    type Encode = Q;
    type Decode = A;
    type Encoder = ProstEncoder<Q>;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(self.bytes, self.bytes))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

// concerns: storage-etcd3/RCLI-08: all calls ask for a leader: a member without one says so at once, and the next one is
// tried.
fn asked<Q>(message: Q, token: Option<Token>) -> Request<Q> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if let Some(token) = token {
        metadata.insert(TOKEN, token);
    }
    metadata.insert(LEADER, MetadataValue::from_static("true"));
    request
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::oversize;

    #[test]
    fn only_answers_that_are_too_large_are() {
        let text = "Error, decoded message length too large: found 4242 bytes, the limit is: 4194304 bytes";
        assert_eq!(oversize(&Status::out_of_range(text)), Some(4242));
        assert_eq!(oversize(&Status::unknown(text)), None);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(oversize(&Status::out_of_range(compacted)), None);
    }
}
