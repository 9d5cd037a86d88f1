//! Where the handlers of an instance run that nobody calls for: its home, an event loop.
//!
//! That is the loop that opened it, or, when that has ended, the one that asked it last. Between
//! the two there is none, and whoever needs it waits, as long as the instance has not ended. It
//! knows nothing of what is done there.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::mailbox::Post;

/// The home of an instance. Cheap to clone; all clones are the same home.
#[derive(Clone)]
pub(crate) struct Home(Arc<Inner>);

struct Inner {
    place: watch::Sender<Place>,
    /// Who listens to events, to call back here.
    listeners: TaskTracker,
}

#[derive(Clone)]
struct Place {
    post: Post,
    others: Others,
}

/// Whether another loop may still become the home.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    MayCome,
    WillNotCome,
}

impl Home {
    pub(crate) fn new(post: Post) -> Self {
        let place = watch::Sender::new(Place { post, others: Others::MayCome });
        Home(Arc::new(Inner { place, listeners: TaskTracker::new() }))
    }

    /// Whether its loop is still there.
    pub(crate) fn is_open(&self) -> bool {
        self.0.place.borrow().post.is_open()
    }

    /// Makes another loop the home.
    pub(crate) fn move_to(&self, post: Post) {
        // What was there before is dropped with nothing locked.
        let others = self.0.place.borrow().others;
        drop(self.0.place.send_replace(Place { post, others }));
    }

    /// The instance ends: no other loop will be the home.
    pub(crate) fn end(&self) {
        self.0.place.send_modify(|place| place.others = Others::WillNotCome);
    }

    /// Who listens to events, to call back here.
    pub(crate) fn listeners(&self) -> &TaskTracker {
        &self.0.listeners
    }

    /// Waits until there is one; `None` if there will be none any more.
    pub(crate) async fn open(&self) -> Option<Post> {
        let mut places = self.0.place.subscribe();
        let settled = |place: &Place| place.post.is_open() || place.others == Others::WillNotCome;
        let place = places.wait_for(settled).await.ok()?.clone();
        place.post.is_open().then_some(place.post)
    }
}
