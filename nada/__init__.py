"""A text pulls the weights of a generator into another domain (StyleGAN-NADA).

Nothing lives here yet: the folder holds the place in the order of imports,
``ops_cuda <- sg3 <- guidance <- nada <- recipes <- app.py``.
"""
