//! Philox.
pub struct Philox {
    key: [u32; 2],
    ctr: [u32; 4],
    buf: [u32; 4],
    n: usize,
}
impl Philox {
    pub fn new(seed: u64, purpose: u32, sample: u64, step: u64) -> Self {
        let key = [seed as u32 ^ purpose.wrapping_mul(0x9E37_79B9), (seed >> 32) as u32 ^ purpose];
        Self {
            key,
            ctr: [0, sample as u32, step as u32, (step >> 32) as u32 ^ (sample >> 32) as u32],
            buf: [0; 4],
            n: 4,
        }
    }
    pub fn next_u32(&mut self) -> u32 {
        if self.n == 4 {
            let (mut c, mut k) = (self.ctr, self.key);
            for _ in 0..10 {
                let a = u64::from(c[0]) * 0xD251_1F53;
                let b = u64::from(c[2]) * 0xCD9E_8D57;
                c = [
                    (b >> 32) as u32 ^ c[1] ^ k[0],
                    b as u32,
                    (a >> 32) as u32 ^ c[3] ^ k[1],
                    a as u32,
                ];
                k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
            }
            self.buf = c;
            self.ctr[0] += 1;
            self.n = 0;
        }
        self.n += 1;
        self.buf[self.n - 1]
    }
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.next_u32()) / 4294967296.0
    }
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }
}
