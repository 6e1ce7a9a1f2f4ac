"""A little of what Python programs do: `work.py SIZE`. Prints what it found."""
import sys


class Account:
    def __init__(self, name):
        self.name = name
        self.total = 0

    def add(self, amount):
        self.total += amount
        return self


def numbers(count):
    value = 1
    for _ in range(count):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
        yield value


size = int(sys.argv[1]) * 1000
accounts = {}
for n in numbers(size):
    key = "k%d" % (n % 997)
    accounts.setdefault(key, Account(key)).add(n >> 4)
order = sorted(accounts.values(), key=lambda account: (account.total, account.name))
text = ",".join("%s=%d" % (account.name, account.total) for account in order)
words = text.replace("=", " ").split(",")
squares = [x * x + 0.5 for x in range(size // 4) if x % 3]
print(len(words), words[0], sum(squares), text.count("7"), 3 ** (size // 50) % 1000003)
