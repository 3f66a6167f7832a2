// Bilinear sampling of a map of h x w pixels at a point (x, y) in [0, 1]^2: four taps around (x w -
// 0.5, y h - 0.5); taps off the map read 0.
#pragma once

#include "numbers.cuh"

struct PointTaps {
    // Column of the left taps and row of the upper ones, from -1.
    int x0, y0;
    float lx, ly;

    // False if the point is too far outside to touch the map, or NaN. Products and differences are
    // rounded separately, as on the CPU, so that both choose the same taps.
    __device__ __forceinline__ bool at(uint32_t h, uint32_t w, float x, float y) {
        const float px = __fsub_rn(__fmul_rn(x, float(w)), 0.5f);
        const float py = __fsub_rn(__fmul_rn(y, float(h)), 0.5f);
        if (!(px > -1.0f && py > -1.0f && px < float(w) && py < float(h))) return false;
        const float fx = floorf(px), fy = floorf(py);
        x0 = int(fx);
        y0 = int(fy);
        lx = px - fx;
        ly = py - fy;
        return true;
    }

    // Weight of tap k in the order upper left, upper right, lower left, lower right.
    __device__ __forceinline__ float weight(int k) const {
        return (k / 2 ? ly : 1.0f - ly) * (k % 2 ? lx : 1.0f - lx);
    }

    // Index of tap k in the map; false off the map.
    __device__ __forceinline__ bool place(int k, uint32_t h, uint32_t w, uint32_t& at) const {
        const int y = y0 + k / 2, x = x0 + k % 2;
        at = uint32_t(y) * w + uint32_t(x);
        return y >= 0 && x >= 0 && y < int(h) && x < int(w);
    }
};
