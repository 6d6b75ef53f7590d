//! Counts how often named branches of the broker and the event loop are taken: a branch that no run of
//! the simulation takes is not tested by it. Without the feature `simulation`, the calls compile to
//! nothing.

macro_rules! branches {
    ($($name:ident = $text:literal;)*) => {
        /// A branch that the simulation has to reach.
        #[derive(Clone, Copy, Debug)]
        #[cfg_attr(not(feature = "net"), allow(dead_code, reason = "the event loop takes some"))]
        pub(crate) enum Branch {
            $($name,)*
        }

        /// The meaning of each branch, in their order.
        #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
        pub(crate) const BRANCHES: &[&str] = &[$($text,)*];
    };
}

branches! {
    QueueOverBound = "a queue is over its bound, and its connection is closed";
    PublisherParked = "a publisher waits for a slow subscriber";
    ParkedAtPattern = "a publisher waits for a slow subscriber of a pattern";
    Recovered = "a subscriber finds what it asks for of the past";
    NotRecovered = "a subscriber does not find what it asks for of the past";
    Replayed = "a subscriber is sent what was kept";
    ReplayOver = "a subscriber was sent what was kept, and joins the others";
    Overtaken = "a subscriber is closed because what it was to be sent is not kept any more";
    Retained = "a publication is kept as the last value of its channel";
    RetainedRefused = "there is no room for another last value";
    RetainedShed = "a last value is forgotten for lack of memory";
    HistoryGiven = "a channel gets a history";
    HistoryTaken = "a channel loses its history by a reload";
    HistoryBoundsChanged = "a reload changes the bounds of a history";
    HistoryAged = "a message of a history becomes too old";
    HistoryShrunk = "a history is shortened for lack of memory";
    RefusedByPattern = "the filter refuses a channel that a connection would hear through a pattern";
    Conflated = "a newer publication of a channel replaces one that waits for a slow reader";
    ConflatedSent = "a subscriber that conflates has read its queue, and gets what waited";
    RequesterParked = "a requester waits for workers that read slowly";
    KeptItsPlace = "a connection that was woken waits again, in front";
    WakePassedOn = "a connection that was woken had its turn, and the next one is woken";
    LeftWhileParked = "a connection leaves the line in which it waits for a slow reader";
    Decongested = "a queue drained below half of its mark";
    NewWorkerWakes = "a channel that others wait for gets another worker";
    WorkersTakeTurns = "one of several equal workers is chosen, and not the first";
    WorkerWithLessChosen = "the worker that holds the fewest requests is chosen among several";
    WorkerBehindSkipped = "a worker that reads slowly is passed over";
    RequestKept = "a request is kept because all workers are at their concurrency";
    KeptHandedOut = "a worker gets a request that was kept";
    KeptTaken = "a worker that got room takes requests that were kept";
    KeptEnded = "a request that is kept ends before a worker gets it";
    KeptGivenUp = "the last worker of a channel leaves while requests are kept";
    RequestRelayed = "a request is forwarded as it came, but for its id";
    RequestRewritten = "a request is written anew before it is forwarded";
    RequestTooLargeToForward = "a request gets too large by the id that its worker sees";
    NoteTooLargeToForward = "a notification gets too large when it is written anew";
    WorkerLost = "a worker leaves with requests that it has not answered";
    AnswerRelayed = "a worker's answer is relayed as it came, but for its reply_to";
    AnswerRewritten = "a worker's answer is written anew";
    AnswerTooLarge = "an answer gets too large by the id of its requester";
    RequestCancelled = "a request is cancelled by its requester";
    RequestRetried = "a request whose worker was lost is given to another one";
    LostLeftOver = "requests whose workers were lost are left over for the next turn";
    TtlOver = "a request is not answered within its own ttl";
    TtlOverOnArrival = "a request was held back for longer than its ttl";
    WorkerToldLater = "a worker is told later of a cancel or credit, since it reads slowly";
    PartPassed = "a part of a stream is passed on";
    PartRefused = "a response breaks the rules of streams";
    PartTooLarge = "a part gets too large by the id of its requester";
    PartWithoutRoom = "a part finds no room in the queue of its requester";
    StreamEnded = "a stream ends with its last frame";
    StreamSpared = "a stream has gone on since its request came";
    CreditAdded = "a stream gets credit";
    CreditRefused = "a stream would get more credit than it may have";
    AttachmentsRewritten = "a message with attachments is written anew, with those as they came";
    AttachmentsInBase64 = "a message with attachments is written in base64";
    Base64TooLarge = "a message with attachments exceeds the limit in base64";
    AttachmentsRelayed = "subscribers share a publication with attachments as it came";
    KeptReadAgain = "a request that was kept is written anew for its worker";
    AttachmentsRefused = "a message with attachments is refused";
    TooManyRequests = "a connection has as many unanswered requests as it may";
    RequestExpired = "a request is not answered in time";
    RequestAbandoned = "a requester leaves before its answer";
    GaveWay = "a connection that goes on lets those who waited for its queue go first";
    FramesShareSpent = "a connection has had its messages of this turn";
    WaitsForLightWork = "a light message waits for a later turn";
    WaitsForHeavyWork = "a heavy message waits for a later turn";
    LeftWhileWaitingForWork = "a connection leaves the lane in which it waits for work";
    DueAndLeft = "a connection leaves while work is set aside for it";
    RunJoined = "a publication joins those before it of the same read";
    RunDelivered = "several publications of one read are delivered together";
    CommandsLeft = "other threads asked for more than a turn takes";
    CommandsWorkSpent = "other threads asked for more work than a turn takes";
    ListingAnswered = "a listing is answered";
    ListingTooLarge = "a listing is too large for a frame";
    ChannelsReclaimed = "channels that nobody uses any more make room for another";
    ChannelsLimited = "a connection may not create another channel";
    SubscriptionsLimited = "a connection may not subscribe to another channel";
    ServicesLimited = "a connection may not serve another channel";
    ChannelForgotten = "a channel that nobody uses any more is forgotten while its owner stays";
    WrongToken = "a connection has no token, or a wrong one";
    UserNotAdmitted = "a connection is of a user who is not admitted";
    ServerFull = "a connection is refused because all places are taken";
    TooManyRefused = "a connection is closed unheard because too many are being refused";
    SupersededEvicted = "a superseded connection is closed to make room";
    HandshakeEvicted = "a connection that did not complete its handshake is closed to make room";
    HandshakeTimedOut = "a connection did not complete its handshake in time";
    SupersededInSilence = "an older connection with the same id is told later";
    SupersededAndTold = "an older connection with the same id is told at once";
    SupersededSpoke = "a superseded connection said something, and is told";
    GraceEnded = "a slow reader is closed at the end of its grace";
    IdleClosed = "a connection is closed for its silence";
    IdleSpared = "a connection was not silent for as long as its timer says";
    LingerEnded = "a peer did not close its side in time";
    MemoryRefusing = "memory is short, and nothing new is let in";
    MemoryPausing = "memory is very short, and messages wait";
    MemoryPaused = "a connection waits for memory";
    MemoryResumed = "a connection that waited for memory goes on";
    MemoryGraceEnded = "memory was short for too long";
    MemoryGraceShort = "memory is short again soon, and the grace is a part of the usual one";
    MemoryShed = "a connection is closed because it holds the most";
    UnfinishedShed = "a connection is closed because its message does not end";
    MemoryLowered = "the limit on memory is lowered below what is held";
    Reloaded = "a running server gets other limits and tokens";
    FrameLimitKept = "a frame that began before a reload keeps its limit";
    DrainClosed = "a drain closes a connection that has nothing in flight";
    DrainFoundBusy = "a drain finds a connection with messages that are not processed";
    DrainCutOff = "a drain takes too long";
    HandlerSubscribes = "a handler subscribes a connection";
    HandlerUnsubscribes = "a handler takes a subscription back";
    HandlerCloses = "a handler closes a connection";
    ChannelCreated = "the process creates a channel";
    ChannelRemoved = "the process removes a channel with its subscribers";
    SlicesLeft = "one write takes all slices that it may have, and more are left";
    WriteBlocked = "a write is not whole";
    ReadIntoRoom = "the rest of a long message is read into its place";
    ReadShareSpent = "a connection has had its reads of this turn";
    EndWithLastBytes = "a full read is known to be followed by the end";
    HandshakePutOff = "a step of a handshake is left to the next turn";
    AcceptFailed = "an accept fails, and is tried again later";
    AcceptShed = "a connection is closed for want of a descriptor";
    WatchFailed = "a connection cannot be watched";
    ActionsLeft = "a turn's budget is spent before all of its actions are carried out";
    ShareInterrupted = "a turn's budget is spent within a connection's share";
}

/// Notes that a branch is taken.
#[inline]
pub(crate) fn note(branch: Branch) {
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    count(branch);
    #[cfg(not(any(all(test, feature = "net"), feature = "simulation")))]
    let _ = branch;
}

/// Notes that a branch is taken if a condition holds, which is evaluated for the simulation alone.
#[inline]
pub(crate) fn note_if(branch: Branch, holds: impl FnOnce() -> bool) {
    #[cfg(any(all(test, feature = "net"), feature = "simulation"))]
    if holds() {
        count(branch);
    }
    #[cfg(not(any(all(test, feature = "net"), feature = "simulation")))]
    let _ = (branch, holds);
}

#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
thread_local! {
    static COUNTS: [std::cell::Cell<u64>; BRANCHES.len()] =
        const { [const { std::cell::Cell::new(0) }; BRANCHES.len()] };
}

#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
fn count(branch: Branch) {
    COUNTS.with(|counts| {
        let count = &counts[branch as usize];
        count.set(count.get() + 1);
    });
}

/// Returns how often each branch was taken on this thread since the last call.
#[cfg(any(all(test, feature = "net"), feature = "simulation"))]
pub(crate) fn take() -> Vec<u64> {
    COUNTS.with(|counts| counts.iter().map(|count| count.replace(0)).collect())
}
