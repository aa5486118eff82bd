def supports(x, fu, fd):
    return False
