//! Calls to one member over one connection: reads, writes, leases, and what the member says of itself.
//!
//! The messages are our own ([`proto`](crate::proto)). A call whose token means nothing any more is made once more with a
//! new one.

use std::fmt;
use std::future::Future;

use http::header::HeaderValue;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use apiserver_storage_kv::KvResult;

use crate::answer::{End, Incoming, Part};
use crate::config::Credentials;
use crate::proto::{
    AuthenticateRequest, AuthenticateResponse, CompactionRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Nothing, RangeRequest, RangeResponse, RangeStreamResponse,
    StatusResponse, TxnRequest, TxnResponse,
};
use crate::transport::{Answer, Transport};

const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

type Token = HeaderValue;

/// A connection to one member.
pub(crate) struct Rpc {
    transport: Transport,
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
    /// Calls over a connection. Logs in first where there is somebody to log in.
    pub(crate) async fn new(transport: Transport, credentials: Option<&Credentials>) -> Result<Self, Status> {
        let login = credentials.map(|credentials| Login {
            credentials: credentials.clone(),
            token: RwLock::new(None),
            turn: Mutex::new(()),
        });
        let rpc = Self { transport, login };
        if let Some(login) = &rpc.login {
            rpc.log_in(login, None).await?;
        }
        Ok(rpc)
    }

    /// Reads keys.
    pub(crate) async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Status> {
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
        let opened = self.authorized(|token| self.transport.call(RANGE, token, &request));
        let (mut answer, mut message) = (opened.await?, Incoming::new(room));
        let (mut end, mut pairs) = (None, 0);
        while let Some(data) = answer.data().await? {
            let mut part = Part {
                // As many as the last piece had, and one that it had half of.
                pairs: Vec::with_capacity(pairs + 1),
                ..Part::default()
            };
            if let Err(error) = message.take(&data, &mut part) {
                return Ok(Err(error));
            }
            if let Some(bytes) = part.too_large {
                return Ok(Ok(Came::TooLarge(bytes)));
            }
            (end, pairs) = (end.or(part.end), part.pairs.len());
            if let Err(error) = take(part) {
                return Ok(Err(error));
            }
        }
        let end = end.ok_or_else(|| Status::internal("an answer without its end"))?;
        Ok(Ok(Came::All(end)))
    }

    /// Reads keys, in parts.
    pub(crate) async fn range_stream(&self, request: RangeRequest) -> Result<RangeStream, Status> {
        let opened = self.authorized(|token| self.transport.call(RANGE_STREAM, token, &request));
        opened.await.map(RangeStream)
    }

    /// Writes on condition.
    pub(crate) async fn txn(&self, request: &TxnRequest) -> Result<TxnResponse, Status> {
        self.unary(TXN, request).await
    }

    /// Forgets history below a revision.
    pub(crate) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let _: Nothing = self.unary(COMPACT, &CompactionRequest { revision }).await?;
        Ok(())
    }

    /// A lease of at least so many seconds.
    pub(crate) async fn lease_grant(&self, ttl: i64) -> Result<LeaseGrantResponse, Status> {
        self.unary(LEASE_GRANT, &LeaseGrantRequest { ttl }).await
    }

    /// How long a lease lasts.
    pub(crate) async fn lease_time_to_live(&self, id: i64) -> Result<LeaseTimeToLiveResponse, Status> {
        self.unary(LEASE_TIME_TO_LIVE, &LeaseTimeToLiveRequest { id }).await
    }

    /// What the member says of itself.
    pub(crate) async fn status(&self) -> Result<StatusResponse, Status> {
        self.unary(STATUS, &Nothing {}).await
    }

    async fn unary<A: Message + Default>(&self, path: &'static str, message: &impl Message) -> Result<A, Status> {
        self.authorized(async |token| self.transport.call(path, token, message).await?.only().await)
            .await
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
        let answer = self.transport.call(AUTHENTICATE, None, &request).await?;
        let answer: AuthenticateResponse = answer.only().await?;
        let token = answer.token.parse::<Token>();
        let mut token = token.map_err(|_| Status::unauthenticated("a token that no request can carry"))?;
        // It shows in no log, and what compresses headers does not keep it.
        token.set_sensitive(true);
        *login.token.write() = Some(token);
        Ok(())
    }
}

/// A range that comes as a stream, in parts.
#[derive(Debug)]
pub(crate) struct RangeStream(Answer);

impl RangeStream {
    /// The next part; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<RangeStreamResponse>, Status> {
        self.0.message().await
    }
}

/// What came of an answer that was to be no larger than so much.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Came {
    All(End),
    /// It has so many bytes, and was not taken.
    TooLarge(usize),
}
