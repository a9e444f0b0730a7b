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
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{BufferSettings, Codec, Decoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use apiserver_storage_kv::KvResult;

use crate::answer::{self, End, Part};
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
    channel: Channel,
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
        let rpc = Self { channel, login };
        if let Some(login) = &rpc.login {
            rpc.log_in(login, None).await?;
        }
        Ok(rpc)
    }

    /// Reads keys.
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.unary(RANGE, request).await
    }

    /// Reads keys, showing each part of the answer to `take` as it comes, if there is room for the answer. What `take`
    /// says ends the call.
    pub(crate) async fn range_into(
        &self,
        request: RangeRequest,
        room: usize,
        take: impl Fn(Part) -> KvResult<()>,
    ) -> Result<KvResult<Came>, Status> {
        let opened = self.authorized(|token| self.open_passing(request.clone(), token, room));
        let mut parts = opened.await?;
        let mut end = None;
        while let Some(part) = parts.message().await? {
            let part = match part {
                Ok(Part {
                    too_large: Some(bytes), ..
                }) => return Ok(Ok(Came::TooLarge(bytes))),
                Ok(part) => part,
                Err(error) => return Ok(Err(error)),
            };
            end = end.or(part.end);
            if let Err(error) = take(part) {
                return Ok(Err(error));
            }
        }
        // As the client has it of a message that is cut short.
        let end = end.ok_or_else(|| Status::internal("an answer without its end"))?;
        Ok(Ok(Came::All(end)))
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
        A: Message + Default + Clone + 'static,
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
        A: Message + Default + Clone + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = Exact::of(&message, ProstDecoder::<A>::default());
        let path = PathAndQuery::from_static(path);
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

    async fn open_passing(
        &self,
        message: RangeRequest,
        token: Option<Token>,
        room: usize,
    ) -> Result<Streaming<KvResult<Part>>, Status> {
        let (channel, reading) = answer::passing(self.channel.clone(), room);
        let mut grpc = Grpc::new(channel);
        ready(&mut grpc).await?;
        let (path, codec) = (PathAndQuery::from_static(RANGE), Exact::of(&message, reading));
        let opened = grpc.server_streaming(asked(message, token), path, codec);
        Ok(opened.await?.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        ready(&mut grpc).await?;
        Ok(grpc)
    }
}

async fn ready<S: GrpcService<Body>>(grpc: &mut Grpc<S>) -> Result<(), Status>
where
    S::Error: fmt::Display,
{
    let ready = grpc.ready().await;
    // As the client has it: this text is what tells such a failure, after which nothing was sent.
    ready.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))
}

/// What came of an answer that was to be no larger than so much.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Came {
    All(End),
    /// It has so many bytes, and was not taken.
    TooLarge(usize),
}

/// The codec of one call: its message is written into a buffer of just its size. The one that every message gets
/// otherwise has 8 KiB, which is much for a question and not enough for most objects, so that it would grow.
struct Exact<Q, D> {
    bytes: usize,
    messages: PhantomData<Q>,
    decoder: D,
}

impl<Q: Message, D> Exact<Q, D> {
    fn of(message: &Q, decoder: D) -> Self {
        Self {
            bytes: FRAME_HEAD + message.encoded_len(),
            messages: PhantomData,
            decoder,
        }
    }
}

impl<Q, D> Codec for Exact<Q, D>
where
    Q: Message + 'static,
    D: Decoder<Item: Send + 'static, Error = Status> + Clone + Send + 'static,
{
    type Encode = Q;
    type Decode = D::Item;
    type Encoder = ProstEncoder<Q>;
    type Decoder = D;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(self.bytes, self.bytes))
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.decoder.clone()
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
