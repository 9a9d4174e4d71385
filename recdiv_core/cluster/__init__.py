"""Ray itself: join or start it, submit jobs to it, tell the user's mistakes from its errors.

Not what runs on it. Below: storage and the words. Above: data, which reads and writes on Ray.
"""
