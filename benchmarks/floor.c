/* The floor: what the kernel alone asks for a container, as a static C program.
 *
 * It reads a plan that sup has compiled (see floor.py) and does with it what sup's shim, its child
 * and its init do, system call for system call: clone3 into the same namespaces, the same steps,
 * the console's pair from the container's own devpts, its master sent back over a socketpair, a
 * fork for PID 1, the workload's steps, execve; end of file on the socketpair means it succeeded.
 * There is no template: each container does all of the steps.
 *
 *   floor PLAN    then on stdin a number N a line: N containers are started, all in flight, and the
 *                 nanoseconds from the first clone to the last execve are printed; then they are
 *                 killed and reaped. Every failure ends the program, naming the call.
 *
 * PLAN: a step a line, fields parted by tabs, "%xx" for a byte that would be in the way. Lines
 * before "own", "workload" and "end" are settings: flags N, ptmx PATH, argv ..., env ... */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <grp.h>

#define FIELDS 16
#define STEPS 512
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define SYS_OPEN_TREE 428
#define SYS_MOVE_MOUNT 429
#define SYS_OPENAT2 437
#define SYS_MOUNT_SETATTR 442
#define EMPTY_PATH 0x1000
#define RECURSIVE 0x8000
#define IN_ROOT 0x12 /* RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS */
#define GET_PEER 0x5441
#define UNLOCK 0x40045431

struct step {
    int count;
    char *field[FIELDS];
};
static struct step own[STEPS], workload[STEPS];
static int own_count, workload_count;
static uint64_t flags;
static char *ptmx = "", *argv[FIELDS + 1], *env[FIELDS + 1];
static int root_fd = -1, tree_fd = -1;

static void fail(const char *what)
{
    dprintf(2, "floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static long check(long result, const char *what)
{
    if (result < 0)
        fail(what);
    return result;
}

/* -- the plan ------------------------------------------------------------------------------- */

static void decode(char *text)
{
    char *out = text;
    for (; *text; text++, out++) {
        unsigned byte;
        if (*text == '%' && sscanf(text + 1, "%2x", &byte) == 1) {
            *out = (char)byte;
            text += 2;
        } else {
            *out = *text;
        }
    }
    *out = 0;
}

static int split(char *line, char **field)
{
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    for (char *part; count < FIELDS && (part = strsep(&line, "\t")); count++) {
        decode(part);
        field[count] = part;
    }
    return count;
}

static void copy(char **to, struct step *from)
{
    for (int i = 1; i < from->count; i++)
        to[i - 1] = from->field[i];
}

static void load(const char *path)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    struct step *part = NULL;
    int *count = NULL;
    if (!file)
        fail(path);
    while (getline(&line, &size, file) > 0) {
        struct step one = {0};
        one.count = split(strdup(line), one.field);
        char *word = one.field[0];
        if (!strcmp(word, "flags"))
            flags = strtoull(one.field[1], NULL, 10);
        else if (!strcmp(word, "ptmx"))
            ptmx = one.field[1];
        else if (!strcmp(word, "argv"))
            copy(argv, &one);
        else if (!strcmp(word, "env"))
            copy(env, &one);
        else if (!strcmp(word, "own"))
            part = own, count = &own_count;
        else if (!strcmp(word, "workload"))
            part = workload, count = &workload_count;
        else if (part && *count < STEPS)
            part[(*count)++] = one;
    }
    free(line);
    fclose(file);
}

/* -- the steps, as supervisor/shim/steps.py has them ---------------------------------------------- */

static int in_root(const char *path, int how_flags)
{
    uint64_t how[3] = {(uint64_t)(how_flags | O_CLOEXEC), 0, IN_ROOT};
    return (int)syscall(SYS_OPENAT2, root_fd, path, how, sizeof how);
}

static void set_attributes(int fd, uint64_t attributes, int recursive)
{
    uint64_t set[4] = {attributes, 0, 0, 0};
    unsigned how = EMPTY_PATH | (recursive ? RECURSIVE : 0);
    check(syscall(SYS_MOUNT_SETATTR, fd, "", how, set, sizeof set), "mount_setattr");
}

/* A mount point that is missing is made, as steps.py does; here only right below the root. */
static int make_target(const char *target)
{
    int where = in_root(target, O_PATH);
    if (where >= 0)
        return where;
    int parent = (int)check(in_root("/", O_PATH | O_DIRECTORY), "/");
    check(mkdirat(parent, target + 1, 0755), target);
    close(parent);
    return (int)check(in_root(target, O_PATH), target);
}

static void move_tree(const char *target)
{
    struct stat status;
    check(fstat(tree_fd, &status), "fstat");
    int where = make_target(target);
    check(syscall(SYS_MOVE_MOUNT, tree_fd, "", where, "", 0x44), "move_mount");
    close(where);
    close(tree_fd);
}

static void write_file(const char *path, const char *text, int how)
{
    int fd = (int)check(open(path, O_WRONLY | O_CLOEXEC | how, 0644), path);
    check(write(fd, text, strlen(text)), path);
    close(fd);
}

static void read_file(const char *path)
{
    static char table[1 << 16];
    struct stat status;
    int fd = (int)check(open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC), path);
    check(fstat(fd, &status), path);
    check(read(fd, table, sizeof table), path);
    close(fd);
}

static void interface_up(const char *name)
{
    struct ifreq request = {0};
    int fd = (int)check(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    check(ioctl(fd, SIOCGIFFLAGS, &request), "SIOCGIFFLAGS");
    request.ifr_flags |= IFF_UP;
    check(ioctl(fd, SIOCSIFFLAGS, &request), "SIOCSIFFLAGS");
    close(fd);
}

static void drop_bounding(uint64_t keep)
{
    for (int number = 0; number < 64; number++) {
        int held = prctl(PR_CAPBSET_READ, number, 0, 0, 0);
        if (held < 0)
            return;
        if (held && !(keep >> number & 1))
            check(prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "PR_CAPBSET_DROP");
    }
}

static void set_capabilities(uint64_t keep)
{
    struct { uint32_t version; int pid; } header = {0x20080522, 0};
    uint32_t set[6];
    check(syscall(SYS_capget, &header, set), "capget");
    uint64_t permitted = (set[1] | (uint64_t)set[4] << 32) & keep;
    set[0] = set[1] = (uint32_t)permitted;
    set[3] = set[4] = (uint32_t)(permitted >> 32);
    set[2] = set[5] = 0;
    check(syscall(SYS_capset, &header, set), "capset");
}

static void be_root(int with_groups)
{
    gid_t zero = 0;
    read_file("/etc/passwd");
    read_file("/etc/group");
    if (with_groups)
        check(setgroups(1, &zero), "setgroups");
    check(setresgid(0, 0, 0), "setresgid");
    check(setresuid(0, 0, 0), "setresuid");
}

static void pivot(const char *path)
{
    check(chdir(path), "chdir");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "umount2");
    check(chdir("/"), "chdir");
}

static void map_ids(const char *uid, const char *gid)
{
    char text[64];
    write_file("/proc/self/setgroups", "deny", 0);
    snprintf(text, sizeof text, "0 %s 1", uid);
    write_file("/proc/self/uid_map", text, 0);
    snprintf(text, sizeof text, "0 %s 1", gid);
    write_file("/proc/self/gid_map", text, 0);
}

static void change_directory(const char *path)
{
    int top = (int)check(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), "/");
    root_fd = top;
    int fd = (int)check(in_root(path, O_PATH | O_DIRECTORY), path);
    check(fchdir(fd), "fchdir");
    close(fd);
    close(top);
}

static void make_node(char **f)
{
    dev_t device = makedev((unsigned)atoi(f[2]), (unsigned)atoi(f[3]));
    check(mknod(f[1], 0666 | S_IFCHR, device), f[1]);
    check(chmod(f[1], 0666), f[1]);
}

static void make_directory(char **f)
{
    mode_t mode = (mode_t)atoi(f[2]);
    check(mkdir(f[1], mode), f[1]);
    if (mode & 07022)
        check(chmod(f[1], mode), f[1]);
}

static void set_attributes_at(const char *path, uint64_t attributes)
{
    int fd = (int)check(open(path, O_PATH | O_CLOEXEC), path);
    set_attributes(fd, attributes, 0);
    close(fd);
}

static void open_tree_at(char **f)
{
    unsigned how = 1 | O_CLOEXEC | (atoi(f[4]) ? RECURSIVE : 0);
    tree_fd = (int)check(syscall(SYS_OPEN_TREE, AT_FDCWD, f[2], how), f[2]);
    if (atoi(f[3]))
        set_attributes(tree_fd, strtoull(f[3], NULL, 10), atoi(f[4]));
}

static int run_mount_step(char **f)
{
    if (!strcmp(f[0], "mount"))
        check(mount(f[1], f[2], *f[3] ? f[3] : NULL, strtoul(f[4], NULL, 10), *f[5] ? f[5] : NULL), f[2]);
    else if (!strcmp(f[0], "umount2"))
        check(umount2(f[1], atoi(f[2])), f[1]);
    else if (!strcmp(f[0], "open_root"))
        root_fd = (int)check(open(f[1], O_PATH | O_DIRECTORY | O_CLOEXEC), f[1]);
    else if (!strcmp(f[0], "open_tree"))
        open_tree_at(f);
    else if (!strcmp(f[0], "move_mount"))
        move_tree(f[2]);
    else if (!strcmp(f[0], "mount_setattr"))
        set_attributes_at(f[1], strtoull(f[2], NULL, 10));
    else if (!strcmp(f[0], "pivot_root"))
        pivot(f[1]);
    else
        return 0;
    return 1;
}

static int run_file_step(char **f)
{
    if (!strcmp(f[0], "mkdir"))
        make_directory(f);
    else if (!strcmp(f[0], "mknod"))
        make_node(f);
    else if (!strcmp(f[0], "symlink"))
        check(symlink(f[1], f[2]), f[2]);
    else if (!strcmp(f[0], "write"))
        write_file(f[1], f[2], O_CREAT | O_TRUNC | O_NOFOLLOW);
    else
        return 0;
    return 1;
}

static int run_process_step(char **f)
{
    if (!strcmp(f[0], "sethostname"))
        check(sethostname(f[1], strlen(f[1])), "sethostname");
    else if (!strcmp(f[0], "interface_up"))
        interface_up(f[1]);
    else if (!strcmp(f[0], "idmap"))
        map_ids(f[1], f[2]);
    else if (!strcmp(f[0], "umask"))
        umask((mode_t)atoi(f[1]));
    else if (!strcmp(f[0], "cap_bound"))
        drop_bounding(strtoull(f[1], NULL, 10));
    else if (!strcmp(f[0], "setuser") && !*f[1])
        be_root(atoi(f[2]));
    else if (!strcmp(f[0], "capset"))
        set_capabilities(strtoull(f[1], NULL, 10));
    else if (!strcmp(f[0], "no_new_privs"))
        check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    else if (!strcmp(f[0], "chdir"))
        change_directory(f[1]);
    else
        return 0;
    return 1;
}

static void run(struct step *steps, int count)
{
    for (int i = 0; i < count; i++) {
        char **f = steps[i].field;
        if (!run_mount_step(f) && !run_file_step(f) && !run_process_step(f)) {
            dprintf(2, "floor: the step %s is unknown\n", f[0]);
            _exit(3);
        }
    }
}

/* -- a container ------------------------------------------------------------------------------ */

static void send_master(int report, int master)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {{0}};
    struct iovec text = {"done", 4};
    struct msghdr message = {0};
    message.msg_iov = &text, message.msg_iovlen = 1;
    message.msg_control = &control, message.msg_controllen = sizeof control;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &master, sizeof master);
    check(sendmsg(report, &message, MSG_NOSIGNAL), "sendmsg");
}

static int open_console(int report)
{
    int zero = 0, how = O_RDWR | O_NOCTTY | O_CLOEXEC;
    int master = (int)check(open(ptmx, how), ptmx);
    check(ioctl(master, UNLOCK, &zero), "TIOCSPTLCK");
    int slave = (int)check(ioctl(master, GET_PEER, how), "TIOCGPTPEER");
    int tree = (int)check(syscall(SYS_OPEN_TREE, slave, "", 1 | O_CLOEXEC | EMPTY_PATH), "open_tree");
    int target = (int)check(open("/dev/console", O_PATH | O_CLOEXEC), "/dev/console");
    check(syscall(SYS_MOVE_MOUNT, tree, "", target, "", 0x44), "move_mount");
    close(target);
    close(tree);
    send_master(report, master);
    close(master);
    return slave;
}

static void be_init(pid_t child, sigset_t *signals)
{
    int status;
    check(syscall(SYS_close_range, 0, ~0U, 0), "close_range");
    for (;;) {
        if (sigwaitinfo(signals, NULL) != SIGCHLD)
            continue;
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == child)
                _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
}

static void execute(void)
{
    char path[4096];
    if (strchr(argv[0], '/'))
        execve(argv[0], argv, env);
    for (char *rest = strdup(env[0] + strlen("PATH=")), *entry; (entry = strsep(&rest, ":"));) {
        snprintf(path, sizeof path, "%s/%s", entry, argv[0]);
        execve(path, argv, env);
    }
    fail(argv[0]);
}

static void become_container(int report)
{
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    sigprocmask(SIG_BLOCK, &all, NULL);
    run(own, own_count);
    int slave = open_console(report);
    pid_t child = (pid_t)check(fork(), "fork");
    if (child)
        be_init(child, &all);
    setsid();
    check(ioctl(slave, TIOCSCTTY, 0), "TIOCSCTTY");
    for (int fd = 0; fd < 3; fd++)
        dup2(slave, fd);
    check(syscall(SYS_close_range, 3, ~0U, 4), "close_range");
    run(workload, workload_count);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    execute();
}

/* -- a fleet ------------------------------------------------------------------------------------ */

struct container {
    int report, pidfd, master;
};

static void start(struct container *one)
{
    int pair[2];
    check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), "socketpair");
    uint64_t arguments[11] = {flags | CLONE_PIDFD, (uint64_t)(uintptr_t)&one->pidfd};
    one->master = -1;
    if (check(syscall(SYS_clone3, arguments, sizeof arguments), "clone3") == 0)
        become_container(pair[1]);
    close(pair[1]);
    one->report = pair[0];
}

/* True at the end of file: the execve succeeded. */
static int heard(struct container *one)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    char text[16];
    struct iovec part = {text, sizeof text};
    struct msghdr message = {0};
    message.msg_iov = &part, message.msg_iovlen = 1;
    message.msg_control = &control, message.msg_controllen = sizeof control;
    ssize_t length = check(recvmsg(one->report, &message, MSG_CMSG_CLOEXEC), "recvmsg");
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head)
        memcpy(&one->master, CMSG_DATA(head), sizeof(int));
    if (length == 0 && one->master < 0)
        exit(1); /* the child has said why */
    return length == 0;
}

static void finish(struct container *fleet, int n)
{
    siginfo_t info;
    for (int i = 0; i < n; i++)
        check(syscall(SYS_pidfd_send_signal, fleet[i].pidfd, SIGKILL, NULL, 0), "pidfd_send_signal");
    for (int i = 0; i < n; i++) {
        check(waitid(P_PIDFD, (id_t)fleet[i].pidfd, &info, WEXITED | __WALL), "waitid");
        close(fleet[i].pidfd);
        close(fleet[i].master);
    }
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void collect(struct container *fleet, int epoll, int n)
{
    struct epoll_event events[64];
    while (n) {
        int count = (int)check(epoll_wait(epoll, events, 64, -1), "epoll_wait");
        for (int i = 0; i < count; i++) {
            struct container *one = fleet + events[i].data.u32;
            if (heard(one)) {
                /* Siblings still hold copies: closing alone would leave it in the epoll. */
                check(epoll_ctl(epoll, EPOLL_CTL_DEL, one->report, NULL), "epoll_ctl");
                close(one->report);
                n--;
            }
        }
    }
}

static long long launch(int n)
{
    struct container *fleet = calloc((size_t)n, sizeof *fleet);
    int epoll = (int)check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    long long began = now();
    for (int i = 0; i < n; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        start(fleet + i);
        check(epoll_ctl(epoll, EPOLL_CTL_ADD, fleet[i].report, &event), "epoll_ctl");
    }
    collect(fleet, epoll, n);
    long long took = now() - began;
    finish(fleet, n);
    close(epoll);
    free(fleet);
    return took;
}

int main(int count, char **arguments)
{
    char line[32];
    struct rlimit files;
    if (count != 2) {
        dprintf(2, "usage: floor PLAN\n");
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    load(arguments[1]);
    while (fgets(line, sizeof line, stdin)) {
        printf("%lld\n", launch(atoi(line)));
        fflush(stdout);
    }
    return 0;
}
