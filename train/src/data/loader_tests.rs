use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::IGNORE;
use crate::augment::Augment;

/// Samples 0..n: a picture of two classes whose first pixel is the sample's number.
struct Numbers {
    n: usize,
    names: Vec<String>,
    fail_at: Option<usize>,
    loaded: AtomicUsize,
}

fn numbers(n: usize, fail_at: Option<usize>) -> Numbers {
    Numbers { n, names: vec!["a".into(), "b".into()], fail_at, loaded: AtomicUsize::new(0) }
}

impl Source for Numbers {
    fn len(&self) -> usize {
        self.n
    }
    fn class_names(&self) -> &[String] {
        &self.names
    }
    fn sample_name(&self, index: usize) -> String {
        index.to_string()
    }
    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        self.loaded.fetch_add(1, Ordering::SeqCst);
        if self.fail_at == Some(index) {
            let path = format!("sample{index}").into();
            return Err(TrainError::Decode { path, what: "made to fail".into() });
        }
        let data = (0..20 * 14 * 3).map(|k| (k * (index + 3)) as u8).collect();
        let label = (0..20 * 14).map(|k| (k / 7 % 2) as u8).collect();
        Ok((Image { w: 20, h: 14, data }, LabelMap { w: 20, h: 14, data: label }))
    }
}

fn settings(workers: usize, start_step: u64) -> LoaderSettings {
    LoaderSettings { batch: 3, workers, seed: 9, start_step, augment: Augment::published(16) }
}

fn batches(workers: usize, start: u64, count: usize) -> Vec<Batch> {
    let mut loader = Loader::start(Arc::new(numbers(7, None)), settings(workers, start)).unwrap();
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

#[test]
fn batches_do_not_depend_on_workers_or_on_where_the_run_started() {
    let whole = batches(1, 0, 9);
    assert_eq!(whole[4].step, 4);
    assert_eq!((whole[0].images.len(), whole[0].labels.len()), (3 * 3 * 256, 3 * 256));
    for workers in [2, 3, 5] {
        assert_eq!(batches(workers, 0, 9), whole);
    }
    assert_eq!(batches(2, 5, 4), whole[5..]);
}

#[test]
fn every_pass_is_a_new_permutation() {
    let mut sampler = Sampler::new(3, 50);
    let passes: Vec<Vec<usize>> =
        (0..3).map(|p| (p * 50..(p + 1) * 50).map(|k| sampler.at(k)).collect()).collect();
    for pass in &passes {
        let mut sorted = pass.clone();
        sorted.sort();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }
    assert!(passes[0] != passes[1] && passes[1] != passes[2]);
    assert_eq!(sampler.at(60), passes[1][10]);
}

#[test]
fn a_failing_sample_reaches_the_consumer_at_its_place() {
    let mut order = Sampler::new(9, 7);
    let place = (0..7).find(|&k| order.at(k) == 4).unwrap();
    for workers in [1, 2] {
        let mut loader =
            Loader::start(Arc::new(numbers(7, Some(4))), settings(workers, 0)).unwrap();
        for _ in 0..place / 3 {
            loader.next_batch().unwrap();
        }
        let error = loader.next_batch().unwrap_err().to_string();
        assert!(error.contains("sample4") && error.contains("made to fail"), "{error}");
        assert!(loader.next_batch().is_err());
    }
}

#[test]
fn the_queue_is_bounded_and_dropping_ends_the_workers() {
    let source = Arc::new(numbers(7, None));
    let mut loader = Loader::start(source.clone(), settings(2, 0)).unwrap();
    loader.next_batch().unwrap();
    drop(loader);
    // One batch taken, two waiting, one sample in work on each worker.
    let loaded = source.loaded.load(Ordering::SeqCst);
    assert!((3..=3 + 6 + 2).contains(&loaded), "{loaded}");
    assert_eq!(Arc::strong_count(&source), 1);
}

/// Pictures of these sizes (width, height), each of two classes.
struct Sizes(Vec<(usize, usize)>, Vec<String>);

impl Source for Sizes {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn class_names(&self) -> &[String] {
        &self.1
    }
    fn sample_name(&self, index: usize) -> String {
        format!("{:?}", self.0[index])
    }
    fn load(&self, index: usize) -> Result<(Image, LabelMap)> {
        let (w, h) = self.0[index];
        let label = (0..w * h).map(|k| (k % 2) as u8).collect();
        Ok((Image::new(w, h), LabelMap::from_data(w, h, label)?))
    }
}

#[test]
fn pictures_of_any_size_make_samples_of_the_size_of_the_crop() {
    let sizes = vec![(1, 1), (48, 7), (7, 4000), (4000, 1), (16, 16)];
    let source = Arc::new(Sizes(sizes, vec!["a".into(), "b".into()]));
    let published = Augment::published(16);
    let plain = Augment { shortest_edges: vec![], ..published.clone() };
    let short = Augment { max_edge: 3, ..published.clone() };
    for augment in [published, plain, short] {
        let settings = LoaderSettings { augment, ..settings(1, 0) };
        let mut loader = Loader::start(source.clone(), settings).unwrap();
        for _ in 0..10 {
            let batch = loader.next_batch().unwrap();
            assert_eq!((batch.images.len(), batch.labels.len()), (3 * 3 * 256, 3 * 256));
            assert!(batch.labels.iter().any(|class| *class != IGNORE));
        }
    }
}

#[test]
fn joined_sources_follow_each_other() {
    let joined = Joined::new(vec![Arc::new(numbers(2, None)), Arc::new(numbers(3, None))]).unwrap();
    let names: Vec<String> = (0..joined.len()).map(|k| joined.sample_name(k)).collect();
    assert_eq!(names, ["0", "1", "0", "1", "2"]);
    assert_eq!(joined.load(3).unwrap(), joined.load(1).unwrap());
    let other = Numbers { names: vec!["c".into()], ..numbers(1, None) };
    assert!(Joined::new(vec![Arc::new(numbers(2, None)), Arc::new(other)]).is_err());
    assert_eq!(joined.load(0).unwrap().1.data.iter().filter(|&&c| c == IGNORE).count(), 0);
}

#[test]
fn workers_suit_the_machine() {
    let settings = settings(0, 0);
    assert_eq!(settings.workers_for(false, 64, None), 2);
    for (cores, workers) in [(1, 2), (2, 2), (4, 3), (16, 15), (128, 16)] {
        assert_eq!(settings.workers_for(true, cores, None), workers, "{cores} cores");
    }
    // Their data must fit at the same time.
    let eight = LoaderSettings { workers: 8, ..settings.clone() }.bytes();
    let chosen = settings.workers_for(true, 16, Some(eight));
    assert!((8..15).contains(&chosen), "{chosen}");
    assert!(LoaderSettings { workers: chosen, ..settings.clone() }.bytes() <= eight);
    assert_eq!(settings.workers_for(true, 16, Some(1)), 2);
}
