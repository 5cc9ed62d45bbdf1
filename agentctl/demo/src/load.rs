//! Constant load on the model, as many applications make it, while versions are switched.
//!
//! In: digits to ask about, over several connections, until told to stop. Out: how many requests were answered, and
//! every distinct answer, so that each can be held against what a version says when it is asked in peace.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agentd_types::ModelName;
use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    digits::Digit,
    predict::{Answer, Predictor},
};

/// Two versions differ by far more on any image; rounding differs by less when requests are computed together.
const TOLERANCE: f32 = 1e-4;

/// Distinct answers kept for each image; a model that has more is wrong in any case.
const MAX_DISTINCT: usize = 16;

/// Load that goes on.
#[derive(Debug)]
pub(crate) struct Load {
    stop: CancellationToken,
    connections: JoinSet<Tally>,
    began: Instant,
}

/// What was asked and answered.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// The first failure's reason.
    pub(crate) reason: Option<String>,
    /// How often each distinct answer came, by image.
    distinct: BTreeMap<usize, Vec<(Answer, u64)>>,
    /// Answers beyond [`MAX_DISTINCT`].
    overflow: u64,
    pub(crate) took: Duration,
}

impl Load {
    /// Starts asking about `digits` over `connections` connections.
    pub(crate) async fn start(
        socket: &Path,
        model: &ModelName,
        digits: Arc<[Digit]>,
        connections: usize,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for offset in 0..connections {
            let predictor = Predictor::connect(socket, model).await?;
            let asked = Asked {
                socket: socket.to_owned(),
                model: model.clone(),
                digits: Arc::clone(&digits),
                offset,
            };
            tasks.spawn(asked.until(stop.clone(), predictor));
        }
        Ok(Self { stop, connections: tasks, began: Instant::now() })
    }

    /// Stops asking; every request under way is still answered and counted.
    pub(crate) async fn stop(mut self) -> Result<Tally> {
        self.stop.cancel();
        let mut sum = Tally::default();
        while let Some(tally) = self.connections.join_next().await {
            sum.add(tally.context("a connection of the load generator ended badly")?);
        }
        sum.took = self.began.elapsed();
        Ok(sum)
    }
}

/// What one connection asks.
struct Asked {
    socket: PathBuf,
    model: ModelName,
    digits: Arc<[Digit]>,
    /// The image to begin with, so that connections do not march in step.
    offset: usize,
}

impl Asked {
    async fn until(self, stop: CancellationToken, mut predictor: Predictor) -> Tally {
        let mut tally = Tally::default();
        let images = self.digits.iter().enumerate().cycle().skip(self.offset * 7);
        for (index, digit) in images {
            if stop.is_cancelled() {
                break;
            }
            match predictor.ask(digit).await {
                Ok(answer) => tally.answer(index, answer),
                Err(error) => {
                    tally.fail(&error);
                    match Predictor::connect(&self.socket, &self.model).await {
                        Ok(again) => predictor = again,
                        Err(error) => {
                            tally.fail(&error);
                            break;
                        }
                    }
                }
            }
        }
        tally
    }
}

impl Tally {
    fn answer(&mut self, index: usize, answer: Answer) {
        self.answered += 1;
        self.count(index, answer, 1);
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.failed += 1;
        self.reason.get_or_insert_with(|| format!("{error:#}"));
    }

    fn count(&mut self, index: usize, answer: Answer, times: u64) {
        let seen = self.distinct.entry(index).or_default();
        if let Some((_, count)) = seen.iter_mut().find(|(known, _)| *known == answer) {
            *count += times;
        } else if seen.len() < MAX_DISTINCT {
            seen.push((answer, times));
        } else {
            self.overflow += times;
        }
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.overflow += other.overflow;
        self.reason = self.reason.take().or(other.reason);
        for (index, answers) in other.distinct {
            for (answer, times) in answers {
                self.count(index, answer, times);
            }
        }
    }

    /// How many answers are not what the version they name says about the image.
    ///
    /// `truth`: for each version, its answers to all images in order.
    pub(crate) fn wrong(&self, truth: &[&[Answer]]) -> u64 {
        let right = |index: usize, answer: &Answer| {
            truth.iter().filter_map(|answers| answers.get(index)).any(|true_answer| same(true_answer, answer))
        };
        let wrong =
            self.distinct.iter().flat_map(|(index, answers)| answers.iter().map(move |seen| (*index, seen)));
        wrong.filter(|(index, (answer, _))| !right(*index, answer)).map(|(_, (_, times))| times).sum::<u64>()
            + self.overflow
    }

    /// How many answers came from `version`.
    pub(crate) fn answered_by(&self, version: u64) -> u64 {
        let answers = self.distinct.values().flatten();
        answers.filter(|(answer, _)| answer.version == version).map(|(_, times)| times).sum()
    }
}

fn same(a: &Answer, b: &Answer) -> bool {
    a.version == b.version
        && a.probabilities.len() == b.probabilities.len()
        && a.probabilities.iter().zip(&b.probabilities).all(|(a, b)| (a - b).abs() <= TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: u64, first: f32) -> Answer {
        Answer { version, probabilities: vec![first, 1.0 - first] }
    }

    #[test]
    fn an_answer_is_right_only_for_the_version_that_it_names() {
        let (old, new) = ([answer(1, 0.9)], [answer(2, 0.2)]);
        for (seen, wrong) in
            [(answer(1, 0.9), 0), (answer(2, 0.2), 0), (answer(1, 0.2), 1), (answer(2, 0.5), 1)]
        {
            let mut tally = Tally::default();
            tally.answer(0, seen.clone());
            assert_eq!(tally.wrong(&[&old, &new]), wrong, "{seen:?}");
        }
    }

    #[test]
    fn answers_of_all_connections_add_up() {
        let mut sum = Tally::default();
        for _ in 0..3 {
            let mut tally = Tally::default();
            tally.answer(0, answer(1, 0.9));
            tally.answer(0, answer(2, 0.2));
            tally.fail(&anyhow::anyhow!("gone"));
            sum.add(tally);
        }
        assert_eq!((sum.answered, sum.failed, sum.answered_by(2)), (6, 3, 3));
        assert_eq!(sum.reason.as_deref(), Some("gone"));
    }

    #[test]
    fn a_model_that_never_answers_the_same_twice_is_wrong() {
        let mut tally = Tally::default();
        for step in 0..MAX_DISTINCT + 5 {
            tally.answer(0, answer(1, f32::from(u8::try_from(step).unwrap()) / 100.0));
        }
        assert_eq!(tally.wrong(&[&[answer(1, 0.0)]]), u64::try_from(MAX_DISTINCT + 4).unwrap());
    }
}
