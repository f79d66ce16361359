// Real spherical harmonics and their gradients in closed form, in e3nn's convention.
//
// Component normalisation (sum over m of Y^2 is 2l+1) and e3nn's axes: the polar axis is y, so that
// l = 1 reads (x, y, z) sqrt(3). On the unit sphere
//
//   Y_{l,+m} = N_lm Q_lm(y) C_m,   Y_{l,-m} = N_lm Q_lm(y) S_m,   C_m + i S_m = (z + i x)^m,
//   Q_lm = d^m P_l / dy^m,         N_lm = sqrt((2l+1) (2 - delta_m0) (l-m)! / (l+m)!)
//
// with P_l Legendre's polynomial (Abramowitz & Stegun 8.5, 8.6.6). The gradient below is that of
// this polynomial; a caller keeps its tangential part, because the argument is a unit vector.

#ifndef KAN_MD_OPS_SPHERICAL_HARMONICS_H
#define KAN_MD_OPS_SPHERICAL_HARMONICS_H

#include <cmath>

namespace kan_md::ops {

constexpr int kMaxL = 4;

struct SphericalNorms {
  double n[kMaxL + 1][kMaxL + 1];
  SphericalNorms() : n()
  {
    for (int l = 0; l <= kMaxL; ++l)
      for (int m = 0; m <= l; ++m) {
        double ratio = 1.0;
        for (int i = l - m + 1; i <= l + m; ++i) ratio /= i;
        n[l][m] = std::sqrt((2 * l + 1) * (m == 0 ? 1.0 : 2.0) * ratio);
      }
  }
};

inline const SphericalNorms kSphericalNorms;

// T is the scalar behind V. Q_lm(y) for 0 <= m <= l <= L; one more column of zeros so that dQ_lm/dy = Q_{l,m+1} needs no case.
template <int L, typename T, typename V> struct LegendreDerivatives {
  V q[L + 1][L + 2];
  explicit LegendreDerivatives(V y)
  {
    for (int l = 0; l <= L; ++l)
      for (int m = 0; m <= L + 1; ++m) q[l][m] = V{};
    q[0][0] = V{} + 1;
    for (int l = 1; l <= L; ++l) {
      q[l][l] = T(2 * l - 1) * q[l - 1][l - 1];
      for (int m = l - 1; m >= 0; --m) {
        V next = T(2 * l - 1) * y * q[l - 1][m];
        if (l >= 2) next -= T(l + m - 1) * q[l - 2][m];
        q[l][m] = next * (T(1) / T(l - m));
      }
    }
  }
};

// C_m and S_m for 0 <= m <= L.
template <int L, typename V> struct Azimuth {
  V c[L + 1], s[L + 1];
  Azimuth(V x, V z)
  {
    c[0] = V{} + 1;
    s[0] = V{};
    for (int m = 1; m <= L; ++m) {
      c[m] = z * c[m - 1] - x * s[m - 1];
      s[m] = z * s[m - 1] + x * c[m - 1];
    }
  }
};

// out: [(L+1)^2]. T is the scalar behind V (V is T or a vector of T).
template <int L, typename T, typename V> inline void spherical_harmonics(V x, V y, V z, V *out)
{
  const LegendreDerivatives<L, T, V> legendre(y);
  const Azimuth<L, V> azimuth(x, z);
  for (int l = 0; l <= L; ++l) {
    V *row = out + l * l + l;
    row[0] = legendre.q[l][0] * static_cast<T>(kSphericalNorms.n[l][0]);
    for (int m = 1; m <= l; ++m) {
      const V polar = legendre.q[l][m] * static_cast<T>(kSphericalNorms.n[l][m]);
      row[m] = polar * azimuth.c[m];
      row[-m] = polar * azimuth.s[m];
    }
  }
}

// grad: [3], sum over lm of weight_lm dY_lm/d(x, y, z).
template <int L, typename T, typename V>
inline void spherical_harmonics_reverse(V x, V y, V z, const V *weight, V *grad)
{
  const LegendreDerivatives<L, T, V> legendre(y);
  const Azimuth<L, V> azimuth(x, z);
  V gx = V{}, gy = V{}, gz = V{};
  for (int l = 1; l <= L; ++l) {
    const V *row = weight + l * l + l;
    gy += row[0] * legendre.q[l][1] * static_cast<T>(kSphericalNorms.n[l][0]);
    for (int m = 1; m <= l; ++m) {
      const T norm = static_cast<T>(kSphericalNorms.n[l][m]);
      gy += norm * legendre.q[l][m + 1] * (row[m] * azimuth.c[m] + row[-m] * azimuth.s[m]);
      const V polar = norm * T(m) * legendre.q[l][m];
      gz += polar * (row[m] * azimuth.c[m - 1] + row[-m] * azimuth.s[m - 1]);
      gx += polar * (row[-m] * azimuth.c[m - 1] - row[m] * azimuth.s[m - 1]);
    }
  }
  grad[0] = gx;
  grad[1] = gy;
  grad[2] = gz;
}

}    // namespace kan_md::ops

#endif
