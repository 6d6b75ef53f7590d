use super::*;
use proptest::prelude::*;

const EPOCH: Epoch = Epoch(*b"0123456789ab");

fn bounds(messages: usize, bytes: usize) -> Bounds {
    Bounds { messages, bytes, age: None }
}

fn moment(millis: u64) -> Moment {
    Duration::from_millis(millis).into()
}

/// What a ring is, without chunks.
struct Naive {
    bounds: Bounds,
    entries: VecDeque<(u64, u64, Vec<u8>)>,
    next: u64,
}

impl Naive {
    fn push(&mut self, frame: Vec<u8>, millis: u64) {
        self.entries.push_back((self.next, millis, frame));
        self.next += 1;
        self.trim(millis);
    }

    fn trim(&mut self, millis: u64) {
        let is_over = |entries: &VecDeque<(u64, u64, Vec<u8>)>| {
            let bytes: usize = entries.iter().map(|(_, _, frame)| frame.len()).sum();
            let age_max = self.bounds.age;
            entries.len() > self.bounds.messages
                || bytes > self.bounds.bytes
                || entries.front().zip(age_max).is_some_and(|((_, at, _), age_max)| {
                    Duration::from_millis(millis - at) >= age_max
                })
        };
        while is_over(&self.entries) {
            self.entries.pop_front();
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Wait(u64),
    Bound(usize, usize, Option<u64>),
    Read(u64, usize, bool),
    Shrink,
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 1usize..600, 2 => 600usize..5_000, 1 => 5_000usize..70_000];
    let step = prop_oneof![
        20 => size.prop_map(Step::Push),
        2 => (0u64..50).prop_map(Step::Wait),
        1 => (1usize..40, 1usize..100_000, prop::option::of(1u64..200))
            .prop_map(|(messages, bytes, age)| Step::Bound(messages, bytes, age)),
        6 => (0u64..60, 1usize..5_000, any::<bool>())
            .prop_map(|(back, bytes, splits)| Step::Read(back, bytes, splits)),
        1 => Just(Step::Shrink),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn a_ring_holds_what_a_plain_list_would(steps in steps()) {
        let mut pool = BufferPool::default();
        let mut ring = History::new(EPOCH, bounds(20, 50_000));
        let mut naive = Naive { bounds: bounds(20, 50_000), entries: VecDeque::new(), next: 1 };
        let mut millis = 0;
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(bytes) => {
                    let frame = vec![at as u8; bytes];
                    let out = OutFrame::whole(&frame);
                    let out = if bytes > COPY_BYTES_MAX { out.to_shared(&mut pool) } else { out };
                    ring.push(&out, bytes % 7 == 0, moment(millis), &mut pool);
                    drop(out);
                    naive.push(frame, millis);
                }
                Step::Wait(more) => {
                    millis += more;
                    ring.forget_old(moment(millis), &mut pool);
                    naive.trim(millis);
                }
                Step::Bound(messages, bytes, age) => {
                    let age = age.map(Duration::from_millis);
                    let new = Bounds { messages, bytes, age };
                    ring.change_bounds(new, moment(millis), &mut pool);
                    naive.bounds = new;
                    naive.trim(millis);
                }
                Step::Read(back, bytes_max, splits) => {
                    let mut next = naive.next.saturating_sub(back);
                    let kept = naive.entries.front().map_or(naive.next, |(first, _, _)| *first);
                    prop_assert_eq!(ring.reaches_back_to(next), next >= kept);
                    let mut bytes = Vec::new();
                    while let Some(piece) = ring.piece(next, bytes_max, splits) {
                        let is_one = piece.messages == 1;
                        prop_assert!(is_one || piece.frames.len() <= bytes_max);
                        prop_assert!(is_one || !piece.has_attachments);
                        piece.frames.append_to(&mut bytes);
                        next += u64::from(piece.messages);
                    }
                    if ring.reaches_back_to(naive.next.saturating_sub(back)) {
                        let from = naive.next.saturating_sub(back);
                        let expected: Vec<u8> = naive
                            .entries
                            .iter()
                            .filter(|(offset, _, _)| *offset >= from)
                            .flat_map(|(_, _, frame)| frame.clone())
                            .collect();
                        prop_assert_eq!(bytes, expected);
                        prop_assert_eq!(next, naive.next);
                    } else {
                        prop_assert!(bytes.is_empty());
                    }
                }
                Step::Shrink => {
                    let forgotten = ring.shrink(&mut pool);
                    naive.entries.drain(..forgotten);
                }
                Step::Clear => {
                    prop_assert_eq!(ring.clear(&mut pool), naive.entries.len());
                    naive.entries.clear();
                }
            }
            prop_assert_eq!(ring.offset() + 1, naive.next);
            prop_assert_eq!(ring.len(), naive.entries.len());
            let bytes: usize = naive.entries.iter().map(|(_, _, frame)| frame.len()).sum();
            prop_assert_eq!(ring.bytes(), bytes);
        }
        ring.clear(&mut pool);
        prop_assert_eq!(pool.gauge().bytes(), 0);
    }
}

#[test]
fn many_who_come_back_share_the_chunks() {
    let mut pool = BufferPool::default();
    let mut ring = History::new(EPOCH, bounds(1_000, 1 << 20));
    for _ in 0..1_000 {
        ring.push(&OutFrame::whole(&[b'x'; 250]), false, moment(0), &mut pool);
    }
    let pieces = |ring: &History| {
        let mut next = 1;
        std::iter::from_fn(|| {
            let piece = ring.piece(next, 1 << 20, false)?;
            next += u64::from(piece.messages);
            Some(piece.frames.as_shared().is_some())
        })
        .collect::<Vec<_>>()
    };
    let found = pieces(&ring);
    assert!(found.len() < 40, "{} pieces", found.len());
    assert!(found[..found.len() - 1].iter().all(|is_shared| *is_shared));
}

#[test]
fn it_takes_little_more_memory_than_its_messages() {
    let mut pool = BufferPool::default();
    let mut ring = History::new(EPOCH, bounds(1_000, 1 << 20));
    for sent in 1..=5_000_usize {
        ring.push(&OutFrame::whole(&[b'x'; 250]), false, moment(0), &mut pool);
        let held = pool.gauge().bytes();
        let messages = sent.min(1_000);
        assert!(held <= 1_024 + messages * 2 * (250 + 48), "{held} bytes for {messages}");
    }
    ring.change_bounds(bounds(1, 1 << 20), moment(0), &mut pool);
    assert!(pool.gauge().bytes() <= 80 << 10, "{}", pool.gauge().bytes());
}

#[test]
fn a_message_over_the_bound_takes_an_offset_and_is_not_kept() {
    let mut pool = BufferPool::default();
    let mut ring = History::new(EPOCH, bounds(10, 100));
    ring.push(&OutFrame::whole(&[1; 50]), false, moment(0), &mut pool);
    ring.push(&OutFrame::whole(&[2; 101]), false, moment(0), &mut pool);
    assert_eq!((ring.offset(), ring.len()), (2, 0));
    assert!(!ring.reaches_back_to(2));
    assert!(ring.reaches_back_to(3));
    assert_eq!(ring.newest(5), 3);
}

#[test]
fn an_age_forgets_what_is_as_old() {
    let mut pool = BufferPool::default();
    let age = Some(Duration::from_millis(10));
    let mut ring = History::new(EPOCH, Bounds { age, ..bounds(10, 1_000) });
    ring.push(&OutFrame::whole(b"one"), false, moment(0), &mut pool);
    ring.push(&OutFrame::whole(b"two"), false, moment(5), &mut pool);
    ring.forget_old(moment(9), &mut pool);
    assert_eq!(ring.len(), 2);
    ring.forget_old(moment(10), &mut pool);
    assert_eq!((ring.len(), ring.oldest()), (1, Some(moment(5))));
}
