"""What :mod:`kan_md_deploy.passes.fused_message_passing` needs to know of NequIP and MACE."""
