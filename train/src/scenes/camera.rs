//! Projection from metres to pixels.

/// A camera over the road, looking along it. World: `x` to the right of the road's middle, `y` up
/// from the ground, `z` away from the camera, all in metres.
pub struct Camera {
    /// Focal length in pixels.
    pub f: f32,
    /// Column of the vanishing point.
    pub cx: f32,
    /// Row of the horizon.
    pub horizon: f32,
    /// Height above the ground.
    pub height: f32,
    /// Metres from the middle of the road to the camera, positive to the right.
    pub offset: f32,
    /// Sideways shift of the road per squared metre ahead.
    pub curve: f32,
}

impl Camera {
    /// Middle of the road at distance `z`, relative to the axis of the camera.
    pub fn middle(&self, z: f32) -> f32 {
        self.curve * z * z - self.offset
    }

    /// Pixels of one metre at distance `z`.
    pub fn scale(&self, z: f32) -> f32 {
        self.f / z
    }

    /// Pixel of a world point.
    pub fn project(&self, x: f32, y: f32, z: f32) -> [f32; 2] {
        let s = self.scale(z);
        [self.cx + (x + self.middle(z)) * s, self.horizon + (self.height - y) * s]
    }

    /// Distance of the ground at row `y`; `None` at and above the horizon.
    pub fn ground(&self, y: f32) -> Option<f32> {
        (y > self.horizon + 0.05).then(|| self.f * self.height / (y - self.horizon))
    }
}
