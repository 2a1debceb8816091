//! A principal's desk: what is to be done about its tokens, and who does it.
//!
//! A principal rests nearly always, and is a record then. When there is something to do (a login waits, its time has
//! come, the store or the configuration has changed) a task takes it from its desk, does one thing after the other, and
//! puts it back.
//!
//! Invariant: there is one task at a time, so that what it does is never done twice at once; whatever comes meanwhile
//! is done by it before the principal rests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::lane::Place;
use super::office::Office;
use super::renewal::{Basis, Demand, Means, Renewal};
use super::slot::{Current, NoToken};
use super::{AccessToken, TokenError};
use crate::vocabulary::Resource;

/// Longest wait of a login for its token. Clients give a login about half a minute.
const LOGIN_WAIT: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Desk {
    mail: Current,
    graph: Current,
    news: Arc<Notify>,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// None: somebody is at work.
    resting: Option<Box<Renewal>>,
    /// Nothing more is begun: gatepost stops, or the principal has left the configuration.
    closed: bool,
    /// Another configuration.
    basis: Option<Box<Basis>>,
    /// The store may have another sign-in, or was not looked at yet.
    unread: bool,
    /// What was found when it was read, and is to be told.
    failure: Option<Box<TokenError>>,
    demands: VecDeque<Demand>,
    /// It may do now what is due.
    place: Option<Place>,
    /// When something is due, as of when it went to rest.
    due_at: Option<Instant>,
    /// When the agenda calls it; no later than that.
    called_at: Option<Instant>,
}

/// What a task does next.
enum Step {
    Look,
    Tell(Box<TokenError>, Option<Place>),
    Meet(Demand),
    Attend(Place),
    Close,
}

impl Desk {
    /// Of a principal whose sign-in is yet to be read.
    pub(super) fn new(means: &Arc<Means>, basis: Basis) -> Arc<Self> {
        let news = Arc::default();
        let renewal = Renewal::new(Arc::clone(means), basis, Arc::clone(&news));
        Arc::new(Self {
            mail: renewal.current(Resource::Mail),
            graph: renewal.current(Resource::Graph),
            news,
            inbox: Mutex::new(Inbox {
                resting: Some(Box::new(renewal)),
                unread: true,
                ..Inbox::default()
            }),
        })
    }

    pub(super) fn current(&self, resource: Resource) -> Option<AccessToken> {
        let current = match resource {
            Resource::Mail => &self.mail,
            Resource::Graph => &self.graph,
        };
        current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A login wants a token. What it asks for goes on if it gives up.
    pub(super) async fn demand(
        self: &Arc<Self>,
        office: &Arc<Office>,
        resource: Resource,
        other_than: Option<u64>,
    ) -> Result<AccessToken, NoToken> {
        let (reply, answer) = oneshot::channel();
        let demand = Demand { resource, other_than, reply };
        self.wake(office, |inbox| inbox.demands.push_back(demand));
        match timeout(LOGIN_WAIT, answer).await {
            Ok(answer) => answer.unwrap_or(Err(NoToken::Stopping)),
            Err(_) => Err(NoToken::ForNow("the token endpoint does not answer".into())),
        }
    }

    /// Another configuration is in force.
    pub(super) fn set(self: &Arc<Self>, office: &Arc<Office>, basis: Basis) {
        let mut inbox = self.inbox();
        match inbox.resting.take() {
            Some(mut renewal) => {
                renewal.reload(basis);
                self.rest(inbox, office, renewal);
            }
            None => inbox.basis = Some(Box::new(basis)),
        }
    }

    /// The store has this revision now; none: it may have any.
    pub(super) fn hear(&self, revision: Option<i64>) {
        let mut inbox = self.inbox();
        match &inbox.resting {
            // What it has written itself.
            Some(renewal) if revision.is_some() && renewal.state.revision == revision => {}
            Some(_) => inbox.unread = true,
            None => {
                inbox.unread = true;
                self.news.notify_one();
            }
        }
    }

    pub(super) fn is_unread(&self) -> bool {
        self.inbox().unread
    }

    /// Gives itself to who reads the store for many at once, who calls [`Self::has_read`] then; not if somebody is at
    /// work, who looks as well.
    pub(super) fn to_be_read(self: &Arc<Self>, office: &Arc<Office>) -> Option<Box<Renewal>> {
        let mut inbox = self.inbox();
        let renewal = inbox.resting.take()?;
        if !inbox.unread {
            inbox.resting = Some(renewal);
            return None;
        }
        if renewal.has_errands() {
            drop(inbox);
            self.go_on(office, renewal);
            return None;
        }
        inbox.unread = false;
        Some(renewal)
    }

    pub(super) fn has_read(
        self: &Arc<Self>,
        office: &Arc<Office>,
        renewal: Box<Renewal>,
        read: Result<(), TokenError>,
    ) {
        self.inbox().failure = read.err().map(Box::new);
        self.go_on(office, renewal);
    }

    /// It could not be read.
    pub(super) fn is_not_read(self: &Arc<Self>, office: &Arc<Office>, renewal: Box<Renewal>) {
        let mut inbox = self.inbox();
        inbox.unread = true;
        // A login that waits hears of it.
        match inbox.demands.is_empty() {
            true => self.rest(inbox, office, renewal),
            false => {
                drop(inbox);
                self.go_on(office, renewal);
            }
        }
    }

    /// The clock may have jumped.
    pub(super) fn notice_time(self: &Arc<Self>, office: &Arc<Office>) {
        let mut inbox = self.inbox();
        if let Some(mut renewal) = inbox.resting.take() {
            renewal.judge_anew_after_a_jump();
            self.rest(inbox, office, renewal);
        }
    }

    /// The agenda calls it, as it was put there for this time.
    pub(super) fn call(self: &Arc<Self>, office: &Arc<Office>, at: Instant) {
        let mut inbox = self.inbox();
        if inbox.called_at != Some(at) {
            return;
        }
        let is_due = inbox.is_due();
        match (inbox.resting.take(), is_due) {
            (Some(renewal), true) => {
                renewal.basis.lane.queue(Arc::clone(self));
                inbox.resting = Some(renewal);
            }
            (Some(renewal), false) => {
                inbox.called_at = None;
                self.rest(inbox, office, renewal);
            }
            // It is put there again when it rests.
            (None, _) => inbox.called_at = None,
        }
    }

    /// It is its turn to do what is due.
    pub(super) fn attend(self: &Arc<Self>, office: &Arc<Office>, place: Place) {
        let mut inbox = self.inbox();
        inbox.called_at = None;
        match inbox.is_due() {
            true => inbox.place = Some(place),
            // A login has had it done before.
            false => drop(place),
        }
        if let Some(renewal) = inbox.resting.take() {
            drop(inbox);
            self.go_on(office, renewal);
        }
    }

    /// Nothing more is begun. What is under way comes to its end, and what is not on disk is tried once more.
    pub(super) fn close(self: &Arc<Self>, office: &Arc<Office>) {
        let mut inbox = self.inbox();
        inbox.closed = true;
        inbox.demands.clear();
        if let Some(renewal) = inbox.resting.take() {
            drop(inbox);
            self.go_on(office, renewal);
        }
    }

    fn wake(self: &Arc<Self>, office: &Arc<Office>, order: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox();
        if inbox.closed {
            return;
        }
        order(&mut inbox);
        if let Some(renewal) = inbox.resting.take() {
            drop(inbox);
            self.go_on(office, renewal);
        }
    }

    /// Begins a task if there is something to do.
    fn go_on(self: &Arc<Self>, office: &Arc<Office>, renewal: Box<Renewal>) {
        if let Some((renewal, step)) = self.next(office, renewal) {
            let work = Arc::clone(self).work(Arc::clone(office), renewal, step);
            office.track(work);
        }
    }

    async fn work(self: Arc<Self>, office: Arc<Office>, renewal: Box<Renewal>, step: Step) {
        let mut next = Some((renewal, step));
        while let Some((mut renewal, step)) = next {
            match step {
                Step::Look => renewal.look().await,
                Step::Tell(failure, _place) => {
                    renewal.note_failure(Resource::Mail, *failure).await;
                }
                Step::Meet(demand) => renewal.meet(demand).await,
                Step::Attend(_place) => renewal.attend().await,
                Step::Close => return renewal.save_at_last().await,
            }
            next = self.next(&office, renewal);
        }
    }

    /// What is to be done; else it rests.
    fn next(
        self: &Arc<Self>,
        office: &Arc<Office>,
        mut renewal: Box<Renewal>,
    ) -> Option<(Box<Renewal>, Step)> {
        let mut inbox = self.inbox();
        if let Some(basis) = inbox.basis.take() {
            renewal.reload(*basis);
            // As at a start.
            inbox.unread |= renewal.state.revision.is_none();
        }
        if inbox.closed && renewal.state.unsaved.is_none() {
            return None;
        }
        match inbox.next() {
            Some(step) => Some((renewal, step)),
            None => {
                self.rest(inbox, office, renewal);
                None
            }
        }
    }

    /// Until the agenda calls, or somebody comes.
    fn rest(
        self: &Arc<Self>,
        mut inbox: MutexGuard<'_, Inbox>,
        office: &Arc<Office>,
        renewal: Box<Renewal>,
    ) {
        // What was not read may be anything: nothing is due before.
        let pause = match (&inbox.failure, renewal.state.revision) {
            (Some(_), _) => Duration::ZERO,
            (None, None) => Duration::MAX,
            (None, Some(_)) => renewal.rest(),
        };
        inbox.unread |= renewal.state.revision.is_none();
        inbox.due_at = Instant::now().checked_add(pause);
        inbox.resting = Some(renewal);
        if let Some(at) = inbox.due_at
            && inbox.called_at.is_none_or(|called_at| at < called_at)
        {
            inbox.called_at = Some(at);
            office.agenda.put(at, Arc::clone(self));
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn next(&mut self) -> Option<Step> {
        if self.closed {
            return Some(Step::Close);
        }
        // What nobody waits for is told in its turn: each is a line in the log and a write.
        if (self.place.is_some() || !self.demands.is_empty())
            && let Some(failure) = self.failure.take()
        {
            return Some(Step::Tell(failure, self.place.take()));
        }
        if std::mem::take(&mut self.unread) {
            return Some(Step::Look);
        }
        let demand = self.demands.pop_front().map(Step::Meet);
        demand.or_else(|| self.place.take().map(Step::Attend))
    }

    fn is_due(&self) -> bool {
        self.due_at.is_some_and(|at| at <= Instant::now())
    }
}
