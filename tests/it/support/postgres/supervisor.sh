# Supervises a private folder and the program that uses it, and outlives the test process. Standard input is a pipe held
# only by the test process, so it ends with that process. Then the supervisor ends the program and removes the folder.
#
# usage: sh supervisor.sh FOLDER SIGNAL; SIGNAL ends the program promptly and cleanly.
# Each line of input is a command, answered with a line that holds an exit status:
#   run COMMAND    runs the command to its end
#   start COMMAND  starts the program and leaves it running
#   signal SIGNAL  sends a signal to the program and its children, STOP freezes and CONT resumes them
#   end SIGNAL     ends the program; with KILL its children die at the same moment, as when the machine fails
folder=$1
signal=$2
program=

# Ignores an interrupt at the terminal: the cleanup happens once the test process has ended.
trap : HUP INT TERM

children() {
    cat "/proc/$program/task/$program/children"
}

end() {
    [ -n "$program" ] || return 0
    if [ "$1" = KILL ]; then
        # Stopped first, so that it cannot start another child before the kill.
        kill -s STOP "$program"
        kill -s KILL "$program" $(children)
    else
        kill -s "$1" "$program"
        # A frozen program receives no other signal.
        kill -s CONT "$program" $(children)
    fi
    wait "$program"
    program=
}

while read -r command line; do
    case $command in
    run)
        eval "$line" </dev/null >&2
        status=$?
        # Both streams end in the same word, so a reader of it has read all output of the program.
        echo "ended with $status" >&2
        echo "$status"
        ;;
    start)
        eval "exec $line" </dev/null >&2 &
        program=$!
        echo 0
        ;;
    signal)
        kill -s "$line" "$program"
        kill -s "$line" $(children)
        echo 0
        ;;
    end)
        end "$line" 2>/dev/null
        echo 0
        ;;
    esac
done
end "$signal" 2>/dev/null
rm -rf -- "$folder"
