//! Sharing a thread: long stretches of work that never wait for anything let other tasks in between.

use std::task::Poll;

/// Lets other tasks of this thread run.
pub(crate) async fn end() {
    let mut ended = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut ended, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
