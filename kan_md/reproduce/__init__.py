"""The tables of the paper, run again with controls, seeds and a test set of their own.

Wang, Yu, Zhong, Xiang, J. Mater. Inf. 2024;4:32, doi 10.20517/jmi.2024.46.
"""
