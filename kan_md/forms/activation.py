"""Activations whose second derivative costs little: for training on forces."""

from __future__ import annotations

import torch

from kan_md.ops import function_sums


class TwiceSiLU(torch.nn.SiLU):
    """z σ(z), whose derivatives are written out."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Apply to every element."""
        return _SiLU.apply(z)


class _SiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return torch.nn.functional.silu(z)

    @staticmethod
    def backward(ctx, grad):
        return _Slope.apply(grad, *ctx.saved_tensors)


class _Slope(torch.autograd.Function):
    """g silu'(z), silu' = σ (1 + z (1 - σ))."""

    @staticmethod
    def forward(ctx, grad, z):
        ctx.save_for_backward(grad, z)
        return torch.ops.aten.silu_backward(grad, z)

    @staticmethod
    def backward(ctx, cotangent):
        grad, z = ctx.saved_tensors
        operators = function_sums.operators_for(z)
        if hasattr(operators, "silu_along") and not torch.is_grad_enabled():
            return operators.silu_along(*(t.contiguous() for t in (cotangent, grad, z)))
        grad_grad = _Slope.apply(cotangent, z) if ctx.needs_input_grad[0] else None
        z_grad = _Curve.apply(cotangent * grad, z) if ctx.needs_input_grad[1] else None
        return grad_grad, z_grad


class _Curve(torch.autograd.Function):
    """g silu''(z), silu'' = σ (1 - σ) (2 + z (1 - 2 σ))."""

    @staticmethod
    def forward(ctx, grad, z):
        ctx.save_for_backward(grad, z)
        sigma = torch.sigmoid(z)
        bracket = torch.mul(sigma, z).mul_(-2.0).add_(z).add_(2.0)
        return torch.sub(1.0, sigma).mul_(sigma).mul_(bracket).mul_(grad)

    @staticmethod
    def backward(ctx, cotangent):
        grad, z = ctx.saved_tensors
        sigma = torch.sigmoid(z)
        edge = sigma * (1.0 - sigma)
        odd = 1.0 - 2.0 * sigma
        third = edge * (odd * (2.0 + z * odd) + odd - 2.0 * z * edge)
        grad_grad = _Curve.apply(cotangent, z) if ctx.needs_input_grad[0] else None
        return grad_grad, cotangent * grad * third


def twice_differentiable(body: torch.nn.Module) -> torch.nn.Module:
    """A sequence of modules with its SiLUs exchanged; all others are the same modules."""
    if not isinstance(body, torch.nn.Sequential):
        return body
    return torch.nn.Sequential(
        *(TwiceSiLU() if type(part) is torch.nn.SiLU else part for part in body)
    )
