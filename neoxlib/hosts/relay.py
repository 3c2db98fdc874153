"""The process that carries a connection to a host, so that beats go on while a session is busy."""

BEAT_SECONDS = 1.0
# Hands lines on to a command, and a beat where none came for a second.
RELAY = f"""
import os, select, subprocess, sys
to = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
piece = b"\\n"
try:
    while piece and to.poll() is None:
        if select.select([0], [], [], {BEAT_SECONDS})[0]:
            piece = os.read(0, 65536)
            to.stdin.write(piece)
        elif piece.endswith(b"\\n"):
            to.stdin.write(b'{{"beat": 1}}\\n')
        to.stdin.flush()
    to.stdin.close()
except BrokenPipeError:
    pass
code = to.wait()
os._exit(code if code >= 0 else 255)
"""
