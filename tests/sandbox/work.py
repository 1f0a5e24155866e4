"""What tasks run: each program with the system calls that it makes in ordinary use."""

from __future__ import annotations

_PYTHON = r"""cat >w.py <<'E'
import asyncio, multiprocessing.pool, os, select, shutil, signal, socket, sqlite3, ssl, subprocess, tempfile, zipfile
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
asyncio.run(asyncio.sleep(0))
with multiprocessing.pool.ThreadPool(4) as pool:
    assert sum(pool.map(int, "123")) == 6
assert subprocess.run("cat", shell=True, input=b"x", capture_output=True).stdout == b"x"
db = sqlite3.connect("w.db")
db.execute("pragma journal_mode=wal"), db.execute("create table t (a)"), db.execute("insert into t values (1)")
db.commit()
ssl.create_default_context()
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b"x")
assert select.select([client], [], [], 9)[0]
signal.setitimer(signal.ITIMER_REAL, 0.01), signal.sigwait({signal.SIGALRM})
folder = tempfile.mkdtemp()
with zipfile.ZipFile(folder + "/z.zip", "w") as archive:
    archive.write("w.py")
shutil.copytree(folder, "copied"), shutil.copy2("w.py", "v.py"), os.link("v.py", "u.py"), os.mkfifo("pipe")
os.posix_fallocate(os.open("big", os.O_CREAT | os.O_RDWR), 0, 4096), os.sched_getaffinity(0), os.getloadavg()
os.sendfile(os.open("sent", os.O_CREAT | os.O_WRONLY), os.open("w.py", os.O_RDONLY), 0, 10)
E
python3 w.py"""

WORK = {
    "git": "git init -q . && touch f && git add f && git -c user.name=x -c user.email=x@x commit -qm x && git log && "
    "git clone -q . c && git -C c checkout -qb y && git gc -q && git stash list && git diff HEAD --stat",
    "python3": _PYTHON,
    "python3 -m venv": "python3 -m venv --without-pip v && v/bin/python -c 'import this' && ls -R v",
    "tar": "mkdir d && tar -czf d.tgz d && tar -xzf d.tgz && cp -a d e && chmod -R 700 e && mv e g && rm -r g && "
    "seq 9 >n && gzip -k n && zcat n.gz && touch -d 1999-1-1 n && tar -cf n.tar n && tar -tvf n.tar",
    "xz": "seq 9 >n && xz -T2 -k n && xzcat n.xz",
    "curl": "echo a >a.txt && curl -s file://$PWD/a.txt; curl -s --max-time 9 http://127.0.0.1:1/; test $? = 7",
    "sqlite3": "sqlite3 x.db 'pragma journal_mode=wal; create table t (a); insert into t values (1); select * from t; "
    "vacuum;'",
    "awk": "seq 9 | awk '{n += $1} END {print n; system(\"date\")}' | sort | sed s/4/5/ | xargs -P2 -n1 echo && "
    "seq 99 >s && sed -i 1d s && seq 200000 | sort -R -S 1M --parallel=2 -T . | sort -n -S 1M | tail -1 && "
    "cut -c1 s | uniq -c | tr 1 2 | tee t | split -l 2 && paste s s | head -1 && shuf s | od | tac; diff s t | wc",
    "perl": "perl -e 'use POSIX; print 6 * 7; print `echo x`; select(undef, undef, undef, 0.01); print getpwuid($<)'",
    "node": 'echo \'console.log(6 * 7); require("fs").readFile("/etc/passwd", () => 1); '
    'require("child_process").execSync("true")\' >a.js && '
    "node a.js",
    "make": "printf 'a: b; cp b a\\nb: ; echo 1 >b\\n' >Makefile && make -j2 && make",
    "cc": "echo 'int puts(const char *s); int main(void) { puts(\"x\"); }' >a.c && cc -pipe a.c && ./a.out",
    "find": "find . -type f -newer / -exec ls -l {} +; df .; du -s .; stat .; wc -c </proc/self/stat; id; uname -a; "
    "nproc; timeout 9 nice -n 5 nohup stdbuf -oL env; mktemp; mkfifo p; flock l true; getent hosts localhost; "
    "dd if=/dev/zero of=z bs=4k count=9 conv=fsync; sync z; truncate -s 9 z; ln -s z y; readlink -f y; date",
    "ps": "ps aux; free; uptime; pgrep -a sh; sleep 9 & pkill sleep; true",
    "bash": "set -m; sleep 100 & kill -STOP %1; kill -CONT %1; kill %1; wait; trap 'echo t' USR1; kill -USR1 $$; "
    "coproc cat; echo hi >&${COPROC[1]}; read -t 9 <&${COPROC[0]}; cat <<<x; (exit 3) | true; ulimit -n 99; "
    "exec 5<>/dev/null; time true; echo a | while read l; do echo $l; done; echo $(<w) {1..3}; cat <(echo a)",
}
"""Shell commands by the program that they need."""
