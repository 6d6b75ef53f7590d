//! The token that an application asks for, which a reload replaces.

/// One token after another. Each is on its way for a while, when the server may ask for it or for the
/// one before.
#[derive(Debug)]
pub(super) struct Tokens {
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Asked {
    token: usize,
    posted: u64,
    /// When the server certainly asked for it.
    done: Option<u64>,
}

impl Tokens {
    /// The first token, if any is asked for.
    pub(super) fn new(has_tokens: bool) -> Self {
        let first = Asked { token: 0, posted: 0, done: Some(0) };
        Self { asked: has_tokens.then_some(first).into_iter().collect() }
    }

    /// Returns the tokens of which each may have been asked for at some moment of this time.
    pub(super) fn between(&self, begin: u64, end: u64) -> impl Iterator<Item = usize> {
        let is_over = move |at: usize| {
            let mut later = self.asked[at + 1..].iter();
            later.any(|later| later.done.is_some_and(|done| done < begin))
        };
        let asked = self.asked.iter().enumerate();
        let asked = asked.filter(move |(at, asked)| asked.posted <= end && !is_over(*at));
        asked.map(|(_, asked)| asked.token)
    }

    /// Returns whether any is asked for.
    pub(super) fn is_any(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Asks for the other token from now on, or soon. Returns it.
    pub(super) fn change(&mut self, step: u64) -> usize {
        let Some(last) = self.asked.last() else { return 0 };
        let token = 1 - last.token;
        self.asked.push(Asked { token, posted: step, done: None });
        token
    }

    /// Notes that the server asks for the last one.
    pub(super) fn settle(&mut self, step: u64) {
        self.asked.iter_mut().for_each(|asked| _ = asked.done.get_or_insert(step));
    }
}
