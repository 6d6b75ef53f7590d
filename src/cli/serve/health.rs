//! The health of the server, as its loop itself tells it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipc_framework::{Handle, HandleError};

/// Time for the loop to answer. A turn takes milliseconds, unless a handler blocks it.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It takes connections and requests.
    Ready,
    /// It answers what is in flight, and ends.
    Draining,
    /// The loop did not answer in time.
    Stuck,
}

impl Health {
    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Self::Ready => "ready\n",
            Self::Draining => "draining: the server answers what is in flight, and ends\n",
            Self::Stuck => "stuck: the loop has not answered for half a second\n",
        }
    }
}

/// Asks the loop how it is. At most one question waits for it: all who ask here meanwhile share its
/// answer.
pub(super) struct Pulse {
    handle: Handle,
    /// The last question.
    last: Mutex<Option<Arc<Question>>>,
}

/// A question to the loop.
struct Question {
    asked: Instant,
    /// Set to whether the server runs, once the loop has answered.
    runs: Mutex<Option<bool>>,
    answered: Condvar,
}

impl Pulse {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, last: Mutex::new(None) }
    }

    pub(super) fn feel(&self) -> Health {
        match self.question() {
            Ok(question) => question.health(),
            Err(HandleError::Stopped) => Health::Draining,
            Err(_) => Health::Stuck,
        }
    }

    /// Returns the question that waits for the loop, or a new one.
    fn question(&self) -> Result<Arc<Question>, HandleError> {
        let mut last = locked(&self.last);
        if let Some(waiting) = last.as_ref().filter(|question| question.answer().is_none()) {
            return Ok(waiting.clone());
        }
        let question = Arc::new(Question::new());
        let asked = Asked(question.clone());
        self.handle.post(move |context| asked.0.set(context.stats().running))?;
        *last = Some(question.clone());
        Ok(question)
    }
}

impl Question {
    fn new() -> Self {
        Self { asked: Instant::now(), runs: Mutex::new(None), answered: Condvar::new() }
    }

    fn set(&self, runs: bool) {
        locked(&self.runs).get_or_insert(runs);
        self.answered.notify_all();
    }

    fn answer(&self) -> Option<bool> {
        *locked(&self.runs)
    }

    /// Waits for the answer until the loop has had time enough since the question.
    fn health(&self) -> Health {
        let left = PATIENCE.saturating_sub(self.asked.elapsed());
        let waiting = self.answered.wait_timeout_while(locked(&self.runs), left, |is| is.is_none());
        let (runs, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        match *runs {
            Some(true) => Health::Ready,
            Some(false) => Health::Draining,
            None => Health::Stuck,
        }
    }
}

/// A question on its way to the loop.
struct Asked(Arc<Question>);

impl Drop for Asked {
    /// A server that has ended answers nothing any more.
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The lock is never poisoned, because a panic ends the process.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use ipc_framework::{Config, Server};

    use super::*;

    #[test]
    fn all_who_ask_share_one_question() {
        const ASKERS: u32 = 8;
        let mut server = Server::bind(Config::default().port(0)).unwrap();
        let pulse = Pulse::new(server.handle());
        let ask_at_once = |askers: u32| {
            let begin = Instant::now();
            let health = thread::scope(|scope| {
                let asking: Vec<_> = (0..askers).map(|_| scope.spawn(|| pulse.feel())).collect();
                asking.into_iter().map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
            });
            (health, begin.elapsed())
        };
        // The loop is not run yet, so that it answers nobody.
        let (health, one) = ask_at_once(1);
        assert_eq!(health, [Health::Stuck]);
        assert!(one >= PATIENCE, "{one:?}");
        let (health, all) = ask_at_once(ASKERS);
        assert!(health.iter().all(|health| *health == Health::Stuck), "{health:?}");
        assert!(all < one * ASKERS / 2, "{all:?} for {ASKERS}, {one:?} for one");

        let run = |server: &mut Server| {
            thread::scope(|scope| {
                let asker = scope.spawn(|| pulse.feel());
                while !asker.is_finished() {
                    server.poll_once(Some(Duration::from_millis(1))).unwrap();
                }
                asker.join().unwrap()
            })
        };
        // The first answer may be that to the question that has waited.
        run(&mut server);
        assert_eq!(run(&mut server), Health::Ready);
        drop(server);
        assert_eq!(pulse.feel(), Health::Draining);
    }
}
