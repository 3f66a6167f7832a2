//! Verifications of the kernels on the CUDA backend.
//!
//! Three folders take seconds each and are skipped unless `PTX_DRIVER_TEST_ALL` is set.

use dressage_kernels::check::verify;
use dressage_kernels::device::Device;

use crate::run;

const SLOW: [&str; 3] = ["attention", "ms_deform_attn", "rein"];

#[test]
fn verification_passes_on_the_cuda_backend() {
    run("verify::child_verifications", &[("PTX_DRIVER_LEAKS", "1")]).quietly();
}

#[test]
fn verification_passes_when_work_is_delayed() {
    run("verify::child_verifications", &[("PTX_DRIVER_DELAY", "1")]).quietly();
}

pub fn child_verifications() {
    let (cuda, here) = (Device::cuda(0).unwrap(), Device::virtual_gpu());
    let (mut same, mut near) = (0, 0);
    let all = std::env::var_os("PTX_DRIVER_TEST_ALL").is_some();
    for kernels in verify::all().iter().filter(|kernels| all || !SLOW.contains(&kernels.name)) {
        let before = cuda.counters().products;
        let (got, want) = (kernels.run(&cuda), kernels.run(&here));
        for outcome in &got {
            assert_eq!(outcome.failure, None, "{}", outcome.what);
        }
        if cuda.counters().products == before {
            // Kernel launches only: the results are bitwise equal, so the errors against the
            // reference are equal.
            assert_eq!(got, want);
            same += 1;
        } else {
            let of = |outcomes: &[verify::Outcome]| -> Vec<String> {
                outcomes.iter().map(|outcome| outcome.what.clone()).collect()
            };
            assert_eq!(of(&got), of(&want));
            near += 1;
        }
    }
    assert!(same > 0 && near > 0, "{same} folders of launches, {near} with products");
}
